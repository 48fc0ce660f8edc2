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
