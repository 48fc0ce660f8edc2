// Calls of many operations at a time go to one thread together.
import { AsyncLocalStorage } from 'node:async_hooks'

export interface CallCollector {
  /** Whether calls that are made from now on are collected, instead of going to a thread each. */
  collectCalls: (collect: boolean) => void
  /** Gives all that were collected to one thread, which makes one after the other; they return together. */
  startCollected: () => void
}

const batched = new AsyncLocalStorage<boolean>()

/**
 * Runs operations whose native calls share a thread where they are made in one turn of the event loop: for a short
 * call, the way to a thread and back takes many times as long as the call. One that is stuck keeps the others of its
 * batch from returning.
 */
export const inBatches = <T>(operations: () => Promise<T>): Promise<T> =>
  batched.run(true, operations)

/** Runs a part of them with a thread for each call, because calls in it may take long. */
export const withoutBatches = <T>(operation: () => Promise<T>): Promise<T> =>
  batched.run(false, operation)

/** Operations that are under way at a time. */
const AT_ONCE = 16

/**
 * Runs an operation for each of some things, several at a time, in batches. Once one rejects no more are begun; this
 * rejects likewise, when those that are under way have ended.
 */
export async function eachInBatches<T, R>(
  things: readonly T[],
  operation: (thing: T) => Promise<R>,
): Promise<R[]> {
  const waiting = [...things.entries()].reverse()
  const done: R[] = []
  const work = async (): Promise<void> => {
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      const [index, thing] = next
      try {
        done[index] = await operation(thing)
      } catch (error) {
        waiting.length = 0
        throw error
      }
    }
  }
  await inBatches(async () => {
    const workers = Array.from({ length: AT_ONCE }, work)
    await Promise.allSettled(workers)
    await Promise.all(workers)
  })
  return done
}

type Functions = Record<string, (...args: never[]) => unknown>

/** The addon, with its calls collected within `inBatches`. */
export function collecting<T extends CallCollector>(addon: T): T {
  let collected = false
  const collect = (call: () => unknown): unknown => {
    if (!collected) setImmediate(start)
    collected = true
    addon.collectCalls(true)
    try {
      return call()
    } finally {
      addon.collectCalls(false)
    }
  }
  const start = (): void => {
    collected = false
    addon.startCollected()
  }
  const calls = Object.entries(addon as unknown as Functions).map(([name, call]) => [
    name,
    (...args: never[]) =>
      batched.getStore() === true ? collect(() => call(...args)) : call(...args),
  ])
  return Object.fromEntries(calls) as T
}
