// Waiting with an end: a timeout, or the caller's signal.
import { setTimeout as sleep } from 'node:timers/promises'

export interface Patience {
  /** Milliseconds. */
  timeout: number
  signal: AbortSignal | undefined
}

const FIRST_PAUSE = 1
const LONGEST_PAUSE = 100

/**
 * Asks again and again, with growing pauses, until the answer is not undefined; undefined when the
 * time is over. Rejects with the signal's reason when it is aborted.
 */
export async function poll<T>(
  ask: () => Promise<T | undefined>,
  { timeout, signal }: Patience,
): Promise<T | undefined> {
  const end = performance.now() + timeout
  for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
    signal?.throwIfAborted()
    const answer = await ask()
    if (answer !== undefined) return answer
    const left = end - performance.now()
    if (left <= 0) return undefined
    // An abort during the pause is noticed by the check above, with the caller's own reason.
    await sleep(Math.min(pause, left), undefined, signal ? { signal } : {}).catch(() => undefined)
  }
}
