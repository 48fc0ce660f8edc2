// Whether device and file have the same bytes: both are read with direct I/O, past every cache.
import { constants } from 'node:fs'
import debug from 'debug'
import { DmloopError, problem, type Problem } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { OpenPath } from '../kernel/path.js'
import type { SlicePlan } from './build-plan.js'
import { limitedProgress, type ProgressListener } from './progress.js'
import type { FileSlice } from './range.js'

/** A part of a file to compare. */
export type ComparedPart = Pick<SlicePlan, 'slice' | 'facts'>

/** Slices to compare without knowing their extents. */
export const withoutExtents = (slices: readonly FileSlice[]): ComparedPart[] =>
  slices.map((slice) => ({ slice, facts: undefined }))

const log = debug('dmloop:content')

/** Bytes that a comparison reads at a time, between two checks of the signal. */
const STEP = 8 << 20
/** Bytes compared at each place of a sample. */
const BLOCK = 4096
/** Extents in a sample, spread evenly over the file. */
const SAMPLES = 64

export interface ContentCheck {
  /** `'sample'`: the first and last block of the mapping and of up to 64 extents; `'full'`: all. */
  mode: 'sample' | 'full'
  signal: AbortSignal | undefined
  onProgress: ProgressListener | undefined
}

/** A run of bytes of a slice's file. */
interface Run {
  offset: number
  length: number
}

function* wholeSlice({ slice }: ComparedPart): Iterable<Run> {
  const end = slice.offset + slice.length
  for (let offset = slice.offset; offset < end; offset += STEP) {
    yield { offset, length: Math.min(STEP, end - offset) }
  }
}

/** The first and last block of a run. */
function* endsOf({ offset, length }: Run): Iterable<Run> {
  const size = Math.min(BLOCK, length)
  yield { offset, length: size }
  if (length > size) yield { offset: offset + length - size, length: size }
}

/** A sample of a slice, each run once: an extent may be all there is. */
function sampleOf(part: ComparedPart): Iterable<Run> {
  const runs = [...sampledRuns(part)].map((run) => [`${run.offset}:${run.length}`, run] as const)
  return new Map(runs).values()
}

function* sampledRuns({ slice, facts }: ComparedPart): Iterable<Run> {
  yield* endsOf(slice)
  const { extents, count = 0 } = facts ?? {}
  const step = Math.max(1, count / SAMPLES)
  for (let index = 0; extents && index < count; index += step) {
    const [offset = 0, , length = 0] = native.extentRows(extents, Math.floor(index), 1)
    yield* endsOf({ offset, length })
  }
}

/** Groups runs into what is compared at a time. */
function* stepsOf(runs: Iterable<Run>): Iterable<Run[]> {
  let step: Run[] = []
  let bytes = 0
  for (const run of runs) {
    step.push(run)
    bytes += run.length
    if (bytes < STEP) continue
    yield step
    step = []
    bytes = 0
  }
  if (step.length > 0) yield step
}

/**
 * Compares files and device. Returns the first difference as DMLOOP_CONTENT_MISMATCH, with its position in
 * the file, or undefined. Rejects with the signal's reason when aborted.
 */
export async function compareContent(
  parts: readonly ComparedPart[],
  path: string,
  check: ContentCheck,
): Promise<Problem | undefined> {
  const runsOf = check.mode === 'full' ? wholeSlice : sampleOf
  const steps = parts.map((part) => [...stepsOf(runsOf(part))])
  const total = steps.flat(2).reduce((sum, { length }) => sum + length, 0)
  const report = limitedProgress(check.onProgress, total)
  let done = 0
  let start = 0
  await using device = await OpenPath.open(path, constants.O_RDONLY | constants.O_DIRECT)
  for (const [index, { slice }] of parts.entries()) {
    const { file, offset, length } = slice
    for (const step of steps[index] ?? []) {
      check.signal?.throwIfAborted()
      const runs = step.flatMap((run) => [start + run.offset - offset, run.offset, run.length])
      const differs = await result(
        native.findDifference(device.fd, path, file.fd, Float64Array.from(runs)),
        file.path,
      )
      if (differs >= 0) {
        const position = Math.floor(differs / file.blockSize) * file.blockSize
        const range = { file: file.path, offset: position, length: file.blockSize }
        return problem('DMLOOP_CONTENT_MISMATCH', range)
      }
      done += step.reduce((sum, run) => sum + run.length, 0)
      report(done)
    }
    start += length
  }
  log('%s: %d bytes agree (%s)', path, done, check.mode)
  return undefined
}

/** What the caller of mapFile wants compared. */
export type ProofRequest = Pick<ContentCheck, 'signal' | 'onProgress'> & {
  verify: ContentCheck['mode'] | 'none'
}

/**
 * Compares as the caller of mapFile asked for. Rejects with DMLOOP_CONTENT_MISMATCH when file and device
 * differ, and with the signal's reason when aborted.
 */
export async function proveContent(
  parts: readonly ComparedPart[],
  path: string,
  { verify: mode, signal, onProgress }: ProofRequest,
): Promise<void> {
  signal?.throwIfAborted()
  if (mode === 'none') return
  const found = await compareContent(parts, path, { mode, signal, onProgress })
  if (found) throw new DmloopError(found)
}
