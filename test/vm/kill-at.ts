// SIGKILL between two system calls of a process: see test/tools/kill-at.cc.
import { fileURLToPath } from 'node:url'
import { quoted, sh } from './lab.js'

const KILL_AT = fileURLToPath(new URL('../../../build/Release/kill-at', import.meta.url))
const KILLED = fileURLToPath(new URL('killed.js', import.meta.url))

/** Kills a process that runs killed.ts, at a call; what kill-at says of it. */
export function killAt(call: number, ...args: string[]): string {
  // One worker thread, so that the calls come in one order.
  return sh(
    `UV_THREADPOOL_SIZE=1 ${quoted(KILL_AT, call, process.execPath, KILLED, ...args)}`,
  ).trim()
}
