// The kernel may keep a call for ever: its caller is told in time all the same. What was to be done is
// called a walk here; it is never cut in the middle, and goes back by itself when it can.
import debug from 'debug'
import { verdict, type DmloopError } from './errors.js'
import { kernelCalls, native, type KernelCall } from './native.js'
import type { Patience } from './wait.js'

const log = debug('dmloop:deadline')

/** Milliseconds between two looks at the calls that a walk waits for. */
const PERIOD = 50

/** Milliseconds that any call may take, however short the timeout; and after an abort. */
const GRACE = 500

/**
 * Makes a walk, and rejects before its end when a single call into the kernel has not come back: with
 * DMLOOP_TIMEOUT when it has been out for longer than `timeout` (and its allowance), and with the signal's
 * reason when it holds up the walk after an abort. The walk's own signal tells it to stop. What it comes to
 * then, nobody hears: what it has made after all is taken back, and errors are logged.
 *
 * The calls are counted that `result` waits for. Native code that asks the kernel many times counts as many
 * calls, so reading or comparing a large file may take its time.
 */
export async function withDeadline<T>(
  { timeout, signal }: Patience,
  walk: (signal: AbortSignal) => Promise<T>,
  takeBack: (made: T) => Promise<unknown> = () => Promise.resolve(),
): Promise<T> {
  const stop = new AbortController()
  const watch = new Watch(timeout, stop.signal)
  const abort = (): void => stop.abort(signal?.reason)
  if (signal?.aborted === true) abort()
  signal?.addEventListener('abort', abort, { once: true })
  const walking = kernelCalls.run(watch.calls, async () => {
    try {
      return await walk(stop.signal)
    } finally {
      watch.end()
      signal?.removeEventListener('abort', abort)
    }
  })
  try {
    return await Promise.race([walking, watch.untilStuck])
  } catch (error) {
    if (!watch.stuck) throw error
    const told: unknown = signal?.aborted === true ? signal.reason : timedOut(watch.stuck, timeout)
    stop.abort(told)
    void walking.then(takeBack).catch((late: unknown) => log('given up: %o', late))
    throw told
  }
}

function timedOut({ number, path }: KernelCall, timeout: number): DmloopError {
  const { syscall = 'a call' } = (number !== undefined && native.callProgress(number)) || {}
  const detail = `${syscall} has not come back from the kernel in ${timeout} ms`
  return verdict('DMLOOP_TIMEOUT', { file: path }, detail)
}

/** Looks at the calls that a walk waits for, until it ends or one of them is stuck. */
class Watch {
  readonly calls = new Set<KernelCall>()
  stuck: KernelCall | undefined
  /** Rejects when a call is stuck. */
  readonly untilStuck: Promise<never>
  end = (): void => undefined
  /** How often the calls had asked the kernel at the last look, and for how long they have not since. */
  readonly #idle = new Map<KernelCall, { steps: number; time: number }>()
  #lastLook = performance.now()
  #limit: number

  constructor(timeout: number, stop: AbortSignal) {
    this.#limit = Math.max(timeout, GRACE)
    const shorten = (): void => {
      this.#limit = GRACE
      this.#idle.clear()
    }
    stop.addEventListener('abort', shorten, { once: true })
    this.untilStuck = new Promise((_, reject) => {
      const look = (): void => {
        this.stuck = this.#findStuck()
        if (!this.stuck) return
        clearInterval(timer)
        reject(new Error('stuck'))
      }
      const timer = setInterval(look, PERIOD).unref()
      this.end = () => clearInterval(timer)
    })
  }

  #findStuck(): KernelCall | undefined {
    const now = performance.now()
    // The kernel is not to blame for an event loop that was busy, nor for a process that was stopped.
    const passed = Math.min(now - this.#lastLook, 2 * PERIOD)
    this.#lastLook = now
    for (const call of this.#idle.keys()) if (!this.calls.has(call)) this.#idle.delete(call)
    return [...this.calls].find(
      (call) => this.#idleTime(call, passed) > this.#limit + call.allowance,
    )
  }

  /** Milliseconds since a call has last asked the kernel for something; `passed` since the last look. */
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
