// A system call may never return: an operation is rejected in time all the same. It is not interrupted, but
// undoes itself when the call returns.
import debug from 'debug'
import { dmloopError, type DmloopError } from './errors.js'
import { kernelCalls, native, type KernelCall } from './native.js'
import type { WaitLimit } from './wait.js'

const log = debug('dmloop:deadline')

/** Milliseconds between two checks of the calls that an operation waits for. */
const PERIOD = 50

/** Milliseconds that any call may take, however short the timeout; and after an abort. */
const GRACE = 500

/**
 * Runs an operation, and rejects before its end when a single system call does not return: with
 * DMLOOP_TIMEOUT when that takes longer than `timeout` (and its allowance), and with the signal's reason when
 * it takes too long after an abort. The operation's own signal tells it to stop. Its outcome is then
 * discarded: a result is undone, and an error is logged.
 *
 * Only the calls that `result` waits for count. A native call that makes many system calls counts as many, so
 * reading or comparing a large file may take longer.
 */
export async function withDeadline<T>(
  { timeout, signal }: WaitLimit,
  operation: (signal: AbortSignal) => Promise<T>,
  undo: (made: T) => Promise<unknown> = () => Promise.resolve(),
): Promise<T> {
  const stop = new AbortController()
  const watch = new Watch(timeout, stop.signal)
  const abort = (): void => stop.abort(signal?.reason)
  if (signal?.aborted === true) abort()
  signal?.addEventListener('abort', abort, { once: true })
  const outcome = kernelCalls.run(watch.calls, async () => {
    try {
      return await operation(stop.signal)
    } finally {
      watch.end()
      signal?.removeEventListener('abort', abort)
    }
  })
  try {
    return await Promise.race([outcome, watch.untilStuck])
  } catch (error) {
    if (!watch.stuck) throw error
    const reason: unknown =
      signal?.aborted === true ? signal.reason : timedOut(watch.stuck, timeout)
    stop.abort(reason)
    void outcome.then(undo).catch((late: unknown) => log('after the deadline: %o', late))
    throw reason
  }
}

function timedOut({ number, path }: KernelCall, timeout: number): DmloopError {
  const { syscall = 'a call' } = (number !== undefined && native.callProgress(number)) || {}
  const detail = `${syscall} did not return for ${timeout} ms`
  return dmloopError('DMLOOP_TIMEOUT', { file: path }, detail)
}

/** Watches the calls that an operation waits for, until it ends or one of them is stuck. */
class Watch {
  readonly calls = new Set<KernelCall>()
  stuck: KernelCall | undefined
  /** Rejects when a call is stuck. */
  readonly untilStuck: Promise<never>
  end = (): void => undefined
  /** The steps that each call had made at the last check, and how long it has made none since. */
  readonly #idle = new Map<KernelCall, { steps: number; time: number }>()
  #lastCheck = performance.now()
  #limit: number

  constructor(timeout: number, stop: AbortSignal) {
    this.#limit = Math.max(timeout, GRACE)
    const shorten = (): void => {
      this.#limit = GRACE
      this.#idle.clear()
    }
    stop.addEventListener('abort', shorten, { once: true })
    this.untilStuck = new Promise((_, reject) => {
      const check = (): void => {
        this.stuck = this.#findStuck()
        if (!this.stuck) return
        clearInterval(timer)
        reject(new Error('stuck'))
      }
      const timer = setInterval(check, PERIOD).unref()
      this.end = () => clearInterval(timer)
    })
  }

  #findStuck(): KernelCall | undefined {
    const now = performance.now()
    // Time in which the event loop was busy, or the process was stopped, does not count.
    const passed = Math.min(now - this.#lastCheck, 2 * PERIOD)
    this.#lastCheck = now
    for (const call of this.#idle.keys()) if (!this.calls.has(call)) this.#idle.delete(call)
    return [...this.calls].find(
      (call) => this.#idleTime(call, passed) > this.#limit + call.allowance,
    )
  }

  /** Milliseconds since the last system call of a native call; `passed` since the last check. */
  #idleTime(call: KernelCall, passed: number): number {
    const progress = call.number === undefined ? undefined : native.callProgress(call.number)
    if (!progress) return 0
    const { steps } = progress
    const before = this.#idle.get(call)
    const time = before?.steps === steps ? before.time + passed : 0
    this.#idle.set(call, { steps, time })
    return time
  }
}
