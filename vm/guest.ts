// Runs a command in a throwaway kernel with device-mapper: User-Mode Linux, or an SMP one under qemu.
import { spawn } from 'node:child_process'
import {
  chmodSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  closeSync,
} from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { GuestOptions } from './kernel.js'
import { ensurePrograms } from './packages.js'
import { qemu } from './qemu.js'
import { uml } from './uml.js'

/** Exit statuses of our own, as timeout(1) and sysexits.h number them. */
const TIMED_OUT = 124
const GUEST_FAILED = 70

const PASSED_ON = ['DMLOOP_SCALE', 'DEBUG', 'LANG', 'TERM', 'NO_COLOR', 'FORCE_COLOR', 'COLUMNS']

const PROJECT = fileURLToPath(new URL('../..', import.meta.url))

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

function commandScript(command: string[], env: Record<string, string>): string {
  const variables = Object.entries(env).map(([name, value]) => `export ${name}=${quote(value)}\n`)
  return `${variables.join('')}cd ${quote(process.cwd())} && exec ${command.map(quote).join(' ')}\n`
}

function environment(options: GuestOptions): Record<string, string> {
  const env: Record<string, string> = { HOME: '/tmp', TMPDIR: '/tmp', DMLOOP_GUEST: '1' }
  for (const name of PASSED_ON) {
    const value = process.env[name]
    if (value !== undefined) env[name] = value
  }
  // In the guest a pipe carries the output: whether it ends in a terminal is known only here.
  if (process.stdout.isTTY && !('NO_COLOR' in env)) env.FORCE_COLOR = '1'
  return { ...env, ...options.env }
}

/**
 * Boots a guest, runs a command in it as root from this directory, and returns its exit status.
 * What it prints goes to this process's standard output and error as it comes. The host's files are
 * visible read-only; nothing of the host's devices is in the guest.
 */
export async function runInGuest(command: string[], options: GuestOptions): Promise<number> {
  const kernel = options.smp > 0 ? qemu : uml
  const layer = ensurePrograms(kernel.programs)

  const directory = mkdtempSync(join(tmpdir(), 'dmloop-vm-'))
  const kernelLog = join(directory, 'kernel.log')
  const log = openSync(kernelLog, 'w')
  try {
    writeFileSync(join(directory, 'command'), commandScript(command, environment(options)))
    writeFileSync(join(directory, 'here'), PROJECT)
    const init = join(directory, 'init')
    writeFileSync(init, readFileSync(new URL('../../vm/init.sh', import.meta.url)))
    chmodSync(init, 0o755)

    const parameters = [
      `DMLOOP_VM_DIR=${directory}`,
      `DMLOOP_VM_DISK=${options.disk * 1024}`,
      `DMLOOP_VM_MODULES=${options.modules.join(',')}`,
      ...(options.udev ? ['DMLOOP_VM_UDEV=1'] : []),
      ...(layer ? [`DMLOOP_VM_LAYER=${layer}`] : []),
    ]
    const program = kernel.command({ options, layer, directory, parameters })
    const exit = await boot(program, { directory, log, timeout: options.timeout })
    if (exit === 'timeout') {
      console.error(`the guest was stopped after ${options.timeout} s`)
      return TIMED_OUT
    }
    // As a shell tells of a command that a signal has ended.
    if (exit !== 'ended') return 128 + constants.signals[exit]
    return statusOf(directory) ?? guestFailed(kernelLog)
  } finally {
    closeSync(log)
    rmSync(directory, { recursive: true, force: true })
  }
}

function statusOf(directory: string): number | undefined {
  try {
    return Number.parseInt(readFileSync(join(directory, 'status'), 'utf8'), 10)
  } catch {
    return undefined
  }
}

function guestFailed(kernelLog: string): number {
  console.error('the guest ended without the command’s status; its kernel said:')
  console.error(readFileSync(kernelLog, 'utf8').split('\n').slice(-40).join('\n'))
  return GUEST_FAILED
}

function boot(
  program: string[],
  { directory, log, timeout }: { directory: string; log: number; timeout: number },
): Promise<'ended' | 'timeout' | NodeJS.Signals> {
  return new Promise((resolve, reject) => {
    // A guest is several processes: a group of their own lets us end them all. A watcher in the group does it when our end of its pipe closes, so even our own SIGKILL leaves none behind,
    // nor the directory.
    const watched = '(read -r _ <&4; rm -rf "$0"; kill -KILL 0) & exec "$@" 4<&-'
    const guest = spawn('sh', ['-c', watched, directory, ...program], {
      stdio: ['ignore', 'pipe', 'pipe', log, 'pipe'],
      detached: true,
    })
    const stop = (): void => {
      if (guest.pid === undefined) return
      try {
        process.kill(-guest.pid, 'SIGKILL')
      } catch {
        // It has ended already.
      }
    }
    let outcome: 'ended' | 'timeout' | NodeJS.Signals = 'ended'
    const stopFor = (signal: NodeJS.Signals): void => {
      outcome = signal
      stop()
    }
    const signals: NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP']
    for (const signal of signals) process.once(signal, stopFor)

    const timer =
      timeout > 0
        ? setTimeout(() => {
            outcome = 'timeout'
            stop()
          }, timeout * 1000)
        : undefined
    guest.stdout?.pipe(process.stdout, { end: false })
    guest.stderr?.pipe(process.stderr, { end: false })
    guest.once('error', reject)
    // The watcher shares the guest's streams: they close when it has ended too.
    guest.once('exit', stop)
    guest.once('close', () => {
      clearTimeout(timer)
      for (const signal of signals) process.off(signal, stopFor)
      resolve(outcome)
    })
  })
}
