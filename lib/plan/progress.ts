/** How far a long call has come. */
export interface Progress {
  /** Bytes. */
  done: number
  /** Bytes; undefined where they are not known before, as of a compressed stream. */
  total: number | undefined
}

export type ProgressListener = (progress: Progress) => void
