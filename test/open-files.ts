// What this process has open.
import { readdirSync, readlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

/** The path that each descriptor leads to. */
export const opened = (): string[] =>
  readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)]
    } catch {
      return []
    }
  })

/** What is open, as soon as a call that was under way has returned, and closed what it has opened. */
export async function openedAgain(before: readonly string[]): Promise<string[]> {
  for (let tries = 0; opened().length > before.length && tries < 500; tries++) await sleep(20)
  return opened()
}
