// The bytes of the files that a device maps.
import type { BackingFile } from './backing-file.js'
import { ownMark } from './mark.js'
import { headOf } from './swap-head.js'
import { problem, type Problem } from '../kernel/errors.js'
import type { Guard } from '../kernel/policy.js'

/** A run of one file's bytes. */
export interface FileSlice {
  file: BackingFile
  /** Bytes from the start of the first file to the start of this one. */
  fileStart: number
  /** Bytes from the start of this file. */
  offset: number
  /** Bytes. */
  length: number
}

export interface Range {
  /** The device's logical block size, in bytes. */
  blockSize: number
  /** The device's size, in bytes; 0 when there is a problem. */
  size: number
  /** See `Plan.tailBytes`. */
  tailBytes: number
  slices: FileSlice[]
  problems: Problem[]
}

/** The bytes at the end of a file that an image store has for itself. */
function bytesKept(last: BackingFile | undefined): number {
  const mark = last && ownMark(last.facts.mark, last.identity)
  return mark?.next === undefined ? (mark?.kept ?? 0) : 0
}

/**
 * The part of some files, end to end and without the heads that a guard needs, that `offset` and `length` (bytes)
 * select: by default all of them, less what an image store has at the end for itself, and an incomplete logical
 * block. `blockSize` is by default that of the filesystems' devices.
 */
export function sliceFiles(
  files: readonly BackingFile[],
  request: { offset: number; length: number | undefined; guard: Guard },
  blockSize = Math.max(512, ...files.map((file) => file.blockSize)),
): Range {
  const head = headOf(request.guard)
  const sizeOf = (each: BackingFile): number => Math.max(0, each.size - head)
  const total = files.reduce((sum, each) => sum + sizeOf(each), 0)
  const { offset } = request
  const end = total - bytesKept(files.at(-1))
  const length = request.length ?? Math.floor((end - offset) / blockSize) * blockSize
  const file = files.length === 1 ? files[0]?.path : undefined
  const refuse = (found: Problem): Range => ({
    blockSize,
    size: 0,
    tailBytes: 0,
    slices: [],
    problems: [found],
  })

  const duplicate = files.find(
    (each, at) => files.findIndex((f) => f.identity === each.identity) < at,
  )
  if (duplicate) {
    const detail = 'is named twice, and one device must not have the same blocks in two places'
    return refuse(problem('DMLOOP_ALREADY_MAPPED', { file: duplicate.path }, detail))
  }
  // A larger sum would be rounded.
  if (total > Number.MAX_SAFE_INTEGER) {
    const detail = `and the other files have more than ${Number.MAX_SAFE_INTEGER} bytes together`
    return refuse(problem('DMLOOP_TOO_LARGE', { file: files[0]?.path }, detail))
  }
  if (offset + length > Number.MAX_SAFE_INTEGER) {
    const detail = `offset ${offset} and length ${length} end beyond ${Number.MAX_SAFE_INTEGER} bytes`
    return refuse(problem('DMLOOP_TOO_LARGE', { file: files[0]?.path }, detail))
  }
  if (total < blockSize) {
    const detail = `has ${total} bytes, and a logical block has ${blockSize}`
    return refuse(problem('DMLOOP_EMPTY_FILE', { file: file ?? files[0]?.path }, detail))
  }
  if (offset % blockSize !== 0 || length % blockSize !== 0) {
    const detail = `offset ${offset} and length ${length} are not multiples of ${blockSize} bytes`
    return refuse(problem('DMLOOP_UNALIGNED', { file, offset, length }, detail))
  }
  if (offset + length > total || length <= 0) {
    const detail = `the range asked for reaches past the end, at ${total} bytes`
    const range = { file, offset, length: request.length }
    return refuse(problem('DMLOOP_OUT_OF_RANGE', range, detail))
  }

  const slices: FileSlice[] = []
  let start = 0
  let fileStart = 0
  for (const each of files) {
    const from = Math.max(offset - start, 0)
    const to = Math.min(offset + length - start, sizeOf(each))
    if (from < to) slices.push({ file: each, fileStart, offset: head + from, length: to - from })
    start += sizeOf(each)
    fileStart += each.size
  }
  const incomplete = slices.find((slice) => slice.offset % blockSize || slice.length % blockSize)
  if (incomplete) {
    const detail =
      `its ${incomplete.file.size} bytes are not a multiple of ${blockSize}, ` +
      'and the next file would start in the middle of a block'
    return refuse(problem('DMLOOP_UNALIGNED', { file: incomplete.file.path }, detail))
  }
  const tailBytes = request.length === undefined ? end - offset - length : 0
  return { blockSize, size: length, tailBytes, slices, problems: [] }
}
