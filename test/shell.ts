// Commands of a shell, one after another.
import { execFileSync, spawn } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'

/**
 * A shell that runs one command after another, in the environment that it is started in. A process of
 * Node.js is large, and a fork of it costs a guest far more than most commands do.
 */
class Shell {
  readonly #folder = mkdtempSync(join(tmpdir(), 'shell-'))
  readonly #request: number
  readonly #reply: number

  constructor() {
    const folder = this.#folder
    process.once('exit', () => {
      rmSync(folder, { recursive: true, force: true })
    })
    execFileSync('mkfifo', [`${folder}/request`, `${folder}/reply`])
    const script = `exec 3<request 4>reply
      while read -r _ <&3; do
        (cd "$1"; exec sh -e "$2/command" 3<&- 4>&-) <input >output 2>errors && status=0 || status=$?
        echo $status >&4
      done`
    // It ends when this process does, and with it the other side of its pipe.
    spawn('sh', ['-c', script, 'sh', process.cwd(), folder], {
      cwd: folder,
      stdio: 'ignore',
    }).unref()
    this.#request = openSync(`${folder}/request`, 'w')
    this.#reply = openSync(`${folder}/reply`, 'r')
  }

  run(command: string, input: string): { status: number; stdout: string; stderr: string } {
    const folder = this.#folder
    writeFileSync(`${folder}/command`, command)
    writeFileSync(`${folder}/input`, input)
    writeSync(this.#request, 'run\n')
    const reply = Buffer.alloc(16)
    const status = Number(reply.toString('utf8', 0, readSync(this.#reply, reply)))
    const stdout = readFileSync(`${folder}/output`, 'utf8')
    return { status, stdout, stderr: readFileSync(`${folder}/errors`, 'utf8') }
  }
}

let shell: Shell | undefined

/** Runs a shell command; throws with what it printed when it fails. */
export function sh(command: string, input = ''): string {
  shell ??= new Shell()
  const { status, stdout, stderr } = shell.run(command, input)
  if (status !== 0) throw new Error(`${command}\n${stdout}${stderr}`)
  return stdout
}

/** Words as a shell takes them, whatever is in them but quotes. */
export const quoted = (...words: (string | number)[]): string =>
  words.map((word) => `'${word}'`).join(' ')
