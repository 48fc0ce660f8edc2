// Runs the command as a shell or a terminal does.
import { spawn, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { misfits } from '../tools/json-shape.js'
import { quoted } from './lab.js'

export const COMMAND = fileURLToPath(new URL('../../../dist/cli/dmloop.js', import.meta.url))

export interface Outcome {
  status: number | null
  stdout: string
  stderr: string
}

const environment = (more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => ({
  ...process.env,
  TERM: 'xterm',
  LANG: 'C.UTF-8',
  ...more,
})

/** With pipes for its output. */
export const dmloop = (...words: string[]): Outcome =>
  spawnSync(process.execPath, [COMMAND, ...words], { encoding: 'utf8', env: environment() })

/** In a shell, where "$dmloop" is the command. */
export const inShell = (line: string): Outcome =>
  spawnSync('bash', ['-c', `dmloop() { "${process.execPath}" "${COMMAND}" "$@"; }; ${line}`], {
    encoding: 'utf8',
    env: environment(),
  })

/** On a terminal of its own, which shows standard output and standard error alike. */
export function onTerminal(...words: string[]): { status: number | null; shown: string } {
  const line = quoted(process.execPath, COMMAND, ...words)
  const { status, stdout } = spawnSync('script', ['-qec', line, '/dev/null'], {
    encoding: 'utf8',
    env: environment(),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  return { status, shown: stdout }
}

/** With --json: that there is one document and nothing else, of the verb's type. */
export function json(t: Test, status: number, ...words: [verb: string, ...string[]]): unknown {
  const outcome = dmloop(...words, '--json')
  t.match(outcome, { status, stderr: '' }, words.join(' '))
  const document = JSON.parse(outcome.stdout) as Record<string, unknown>
  const verb = words.slice(0, words[0] === 'image' ? 2 : 1).join(' ')
  t.strictSame(misfits('error' in document ? 'FailureJson' : verb, document), [], 'its type')
  return document
}

/** Sends a signal as soon as the library's log says something. */
export async function signalAt(
  signal: NodeJS.Signals,
  moment: string,
  ...words: string[]
): Promise<Outcome> {
  const child = spawn(process.execPath, [COMMAND, ...words], {
    env: environment({ DEBUG: 'dmloop:*' }),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const text = { stdout: '', stderr: '' }
  child.stdout.on('data', (data: Buffer) => (text.stdout += data.toString()))
  child.stderr.on('data', (data: Buffer) => {
    const before = text.stderr.includes(moment)
    text.stderr += data.toString()
    if (!before && text.stderr.includes(moment)) child.kill(signal)
  })
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { status, ...text }
}
