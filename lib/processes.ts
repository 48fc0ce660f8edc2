// The processes of this machine, from /proc.
import { readdir, readFile } from 'node:fs/promises'

export interface Process {
  pid: string
  /** "process 123 (name)". */
  phrase: () => Promise<string>
}

export async function processes(): Promise<Process[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  return pids.map((pid) => ({
    pid,
    async phrase() {
      const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')
      return `process ${pid} (${name.trim()})`
    },
  }))
}
