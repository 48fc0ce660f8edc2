// Waiting with a limit: a timeout, or the caller's signal.
import { setTimeout as sleep } from 'node:timers/promises'

export interface WaitLimit {
  /** Milliseconds. */
  timeout: number
  signal: AbortSignal | undefined
}

/** How long to wait for the users of a device; with `deferred`, the kernel waits for them instead. */
export type RemovalRequest = WaitLimit & { deferred?: boolean }

/** Milliseconds. */
export const DEFAULT_TIMEOUT = 10_000

/**
 * Of calls without options. Also for undoing a failed call, however little time its caller has given: udev and
 * blkid have a new device open for a moment.
 */
export const DEFAULT_WAIT: WaitLimit = { timeout: DEFAULT_TIMEOUT, signal: undefined }

/** One attempt. */
export const NO_WAIT: WaitLimit = { timeout: 0, signal: undefined }

const FIRST_PAUSE = 1
const LONGEST_PAUSE = 100

/**
 * Repeats an attempt, with growing pauses, until its result is not undefined; undefined when the time is
 * over. Rejects with the signal's reason when it is aborted.
 */
export async function poll<T>(
  attempt: () => Promise<T | undefined>,
  { timeout, signal }: WaitLimit,
): Promise<T | undefined> {
  const end = performance.now() + timeout
  for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
    signal?.throwIfAborted()
    const outcome = await attempt()
    if (outcome !== undefined) return outcome
    const left = end - performance.now()
    if (left <= 0) return undefined
    // An abort during the pause is noticed by the check above, with the caller's own reason.
    await sleep(Math.min(pause, left), undefined, signal ? { signal } : {}).catch(() => undefined)
  }
}
