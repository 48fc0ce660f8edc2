/** How far the comparison of file and device has come. */
export interface Progress {
  /** Bytes compared. */
  done: number
  /** Bytes to compare. */
  total: number
}

export type ProgressListener = (progress: Progress) => void
