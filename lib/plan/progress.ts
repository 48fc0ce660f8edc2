/** How far a long call has come. */
export interface Progress {
  /** Bytes. */
  done: number
  /** Bytes; undefined where they are not known before, as of a compressed stream. */
  total: number | undefined
}

export type ProgressListener = (progress: Progress) => void

/** Reports at most, the last one included. */
const MOST = 1000

/** Where the total is not known, each report is at least this part of all bytes after the last one. */
const UNKNOWN_TOTAL = { least: 4 << 20, part: 0.02 }

/** Calls a listener at most 1,000 times; always with the end, which the caller tells where the total is not known. */
export function limitedProgress(
  listener: ProgressListener | undefined,
  total: number | undefined,
): (done: number, isEnd?: boolean) => void {
  let next = 0
  let last = -1
  return (done, isEnd = done === total) => {
    if (done === last || (done < next && !isEnd)) return
    last = done
    const { least, part } = UNKNOWN_TOTAL
    next = done + (total === undefined ? Math.max(least, done * part) : total / (MOST - 2))
    listener?.({ done, total })
  }
}
