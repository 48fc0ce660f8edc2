// Maps many images; what keeps one of them from being mapped keeps no other.
import debug from 'debug'
import { eachInBatches } from '../kernel/batch.js'
import { DmloopError, type Problem } from '../kernel/errors.js'
import { limitedProgress, type ProgressListener } from '../plan/progress.js'

const log = debug('dmloop:map-each')

/** What `mapAll` has done. */
export interface MappedImages {
  /** The images that are mapped now, and the paths of their devices. */
  mapped: { name: string; path: string }[]
  /** Why others are not. */
  problems: { name: string; problem: Problem }[]
}

interface Work {
  /** The bytes of an image; undefined for one that is not to be mapped. */
  sizeOf: (name: string) => Promise<number | undefined>
  /** The path of its device; undefined where there is no such image any more. */
  map: (name: string) => Promise<string | undefined>
  onProgress: ProgressListener | undefined
  signal: AbortSignal | undefined
}

export async function mapEach(
  names: readonly string[],
  { sizeOf, map, onProgress, signal }: Work,
): Promise<MappedImages> {
  const done: MappedImages = { mapped: [], problems: [] }
  const sizes = new Map<string, number>()
  // What cannot be read has no size, and is a problem when its turn comes.
  for (const name of onProgress ? names : []) {
    sizes.set(name, (await sizeOf(name).catch(() => undefined)) ?? 0)
  }
  const total = [...sizes.values()].reduce((sum, size) => sum + size, 0)
  const report = limitedProgress(onProgress, total)
  let bytes = 0
  await eachInBatches(names, async (name) => {
    signal?.throwIfAborted()
    await noting(name, done, async () => {
      const path = await map(name)
      if (path !== undefined) done.mapped.push({ name, path })
    })
    bytes += sizes.get(name) ?? 0
    report(bytes)
  })
  for (const list of [done.mapped, done.problems]) list.sort((a, b) => (a.name < b.name ? -1 : 1))
  return done
}

/** Runs a step for an image; what it rejects with is a problem of that image. */
async function noting(
  name: string,
  { problems }: MappedImages,
  step: () => Promise<void>,
): Promise<void> {
  try {
    await step()
  } catch (error) {
    if (!(error instanceof DmloopError)) throw error
    log('%s: %o', name, error)
    problems.push(...error.problems.map((problem) => ({ name, problem })))
  }
}
