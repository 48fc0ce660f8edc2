// Whether the device shows the bytes of the file: read through both, past every cache.
import { constants } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import debug from 'debug'
import { DmloopError, isSystemError, problem, type Problem } from './errors.js'
import { native, result } from './native.js'
import type { MapRequest } from './options.js'
import type { SlicePlan } from './plan-file.js'
import type { FileSlice } from './range.js'

/** What of a file is compared. */
export type ComparedPart = Pick<SlicePlan, 'slice' | 'extents'>

/** Slices of which no extents are known, nor matter. */
export const wholly = (slices: readonly FileSlice[]): ComparedPart[] =>
  slices.map((slice) => ({ slice, extents: new Float64Array() }))

const log = debug('dmloop:content')

/** Bytes that a comparison reads at a time, between two looks at the signal. */
const STEP = 8 << 20
/** Bytes compared at each place of a sample. */
const BLOCK = 4096
/** Extents that a sample looks at, spread evenly over the file. */
const SAMPLES = 64

export interface Progress {
  /** Bytes compared. */
  done: number
  /** Bytes to compare. */
  total: number
}

export interface ContentCheck {
  /** `'sample'`: the first and last block of the mapping and of up to 64 extents; `'full'`: all. */
  mode: 'sample' | 'full'
  signal: AbortSignal | undefined
  onProgress: ((progress: Progress) => void) | undefined
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

function* sampleOf({ slice, extents }: ComparedPart): Iterable<Run> {
  yield* endsOf(slice)
  const count = extents.length / 4
  const step = Math.max(1, count / SAMPLES)
  for (let index = 0; index < count; index += step) {
    const row = Math.floor(index) * 4
    yield* endsOf({ offset: extents[row] as number, length: extents[row + 2] as number })
  }
}

/**
 * The file for direct reading. A filesystem that has no direct I/O for it gives the file itself, whose
 * cached pages are dropped first.
 */
async function openDirect({ slice }: ComparedPart): Promise<FileHandle> {
  const { handle, path } = slice.file
  // By the descriptor: whatever the path leads to by now, this is the file that was looked at.
  const self = `/proc/self/fd/${handle.fd}`
  try {
    return await open(self, constants.O_RDONLY | constants.O_DIRECT)
  } catch (error) {
    if (!isSystemError(error, 'EINVAL')) throw error
    await result(native.dropCache(handle.fd), path)
    return open(self, constants.O_RDONLY)
  }
}

/** How often a difference is looked at before it counts: the device may be written to meanwhile. */
const LOOKS = 3

interface Place {
  fd: number
  /** Bytes. */
  offset: number
}

/**
 * The first byte that differs; -1 when there is none. The device is read first: to read it directly has
 * the kernel write out what it has cached of it, which the file shows only then.
 */
async function findDifference(
  device: Place,
  file: Place,
  length: number,
  path: string,
): Promise<number> {
  let differs = -1
  for (let look = 0; look < LOOKS; look++) {
    differs = await result(
      native.findDifference(device.fd, device.offset, file.fd, file.offset, length),
      path,
    )
    if (differs < 0) break
  }
  return differs
}

/**
 * Compares files and device. A difference is DMLOOP_CONTENT_MISMATCH, with its place in the file; none
 * is undefined. Rejects with the signal's reason when aborted.
 */
export async function compareContent(
  parts: readonly ComparedPart[],
  path: string,
  check: ContentCheck,
): Promise<Problem | undefined> {
  const runs = parts.map((part) => [...(check.mode === 'full' ? wholeSlice(part) : sampleOf(part))])
  const total = runs.flat().reduce((sum, { length }) => sum + length, 0)
  let done = 0
  let start = 0
  await using device = await open(path, constants.O_RDONLY | constants.O_DIRECT)
  for (const [index, part] of parts.entries()) {
    const { slice } = part
    await using file = await openDirect(part)
    for (const { offset, length } of runs[index] ?? []) {
      check.signal?.throwIfAborted()
      const at = start + offset - slice.offset
      const places = [
        { fd: device.fd, offset: at },
        { fd: file.fd, offset },
      ] as const
      const differs = await findDifference(...places, length, slice.file.path)
      if (differs >= 0) {
        const place = Math.floor((offset + differs) / slice.file.blockSize) * slice.file.blockSize
        const range = { file: slice.file.path, offset: place, length: slice.file.blockSize }
        return problem('DMLOOP_CONTENT_MISMATCH', range)
      }
      done += length
      check.onProgress?.({ done, total })
    }
    start += slice.length
  }
  log('%s: %d bytes agree (%s)', path, done, check.mode)
  return undefined
}

/**
 * Compares as the caller of mapFile asked for. Rejects with DMLOOP_CONTENT_MISMATCH when file and device
 * differ, and with the signal's reason when aborted.
 */
export async function proveContent(
  parts: readonly ComparedPart[],
  path: string,
  { verify: mode, signal, onProgress }: Pick<MapRequest, 'verify' | 'signal' | 'onProgress'>,
): Promise<void> {
  signal?.throwIfAborted()
  if (mode === 'none') return
  const found = await compareContent(parts, path, { mode, signal, onProgress })
  if (found) throw new DmloopError(found)
}
