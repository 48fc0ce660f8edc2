// Runs programs of other packages.
import { execFile } from 'node:child_process'
import { dmloopError } from './errors.js'
import type { WaitLimit } from './wait.js'

/** The least that a program gets to start and to end, in milliseconds, however short the timeout. */
const LEAST = 500

export interface Ran {
  status: number
  stdout: string
  stderr: string
}

/**
 * Runs a program of a Debian package, with its messages in English. A program that does not end in time, even
 * because the kernel does not let it, is left behind. Rejects with DMLOOP_NO_TOOL where it is not installed, with
 * DMLOOP_TIMEOUT, and with the signal's reason.
 */
export async function runTool(
  program: string,
  args: readonly string[],
  debianPackage: string,
  { timeout, signal }: WaitLimit,
): Promise<Ran> {
  signal?.throwIfAborted()
  const overdue = AbortSignal.timeout(Math.max(timeout, LEAST))
  const options = {
    env: { ...process.env, LC_ALL: 'C' },
    signal: signal ? AbortSignal.any([signal, overdue]) : overdue,
    killSignal: 'SIGKILL',
  } as const
  return await new Promise((resolve, reject) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      const status = error ? error.code : 0
      if (typeof status === 'number') {
        resolve({ status, stdout, stderr })
      } else if (signal?.aborted === true) {
        reject(signal.reason as Error)
      } else if (overdue.aborted) {
        const detail = `${program} did not end in ${timeout} ms`
        reject(dmloopError('DMLOOP_TIMEOUT', { file: args.at(-1) }, detail))
      } else if (error?.code === 'ENOENT' || error?.code === 'EACCES') {
        // EACCES also where PATH has a directory that this user may not search (execvp(3)).
        const detail = `${program} is not installed (Debian: package ${debianPackage})`
        reject(dmloopError('DMLOOP_NO_TOOL', {}, detail))
      } else {
        reject(error ?? new Error(program))
      }
    })
  })
}
