// SIGKILL between two system calls of a process: see test/tools/kill-at.cc.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const KILL_AT = fileURLToPath(new URL('../../../build/Release/kill-at', import.meta.url))
const KILLED = fileURLToPath(new URL('killed.js', import.meta.url))

/** Kills a process that runs killed.ts, at a call; what kill-at says of it. */
export function killAt(call: number, ...args: string[]): string {
  // One worker thread, so that the calls come in one order.
  const env = { ...process.env, UV_THREADPOOL_SIZE: '1' }
  const command = [String(call), process.execPath, KILLED, ...args]
  return execFileSync(KILL_AT, command, { env, encoding: 'utf8' }).trim()
}
