// Who has a file open, as far as this process can see.
import { constants } from 'node:fs'
import { readFile } from 'node:fs/promises'
import type { BackingFile } from '../plan/backing-file.js'
import { descriptorsOf, memoryOf } from './process-files.js'
import { processesThat } from './processes.js'

async function isOpenForWriting(pid: string, file: BackingFile): Promise<boolean> {
  for (const descriptor of await descriptorsOf(pid, file)) {
    // proc_pid_fdinfo(5): the flags of open(2), in octal.
    const info = await readFile(`/proc/${pid}/fdinfo/${descriptor}`, 'utf8').catch(() => '')
    const flags = parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? '0', 8)
    if ((flags & (constants.O_WRONLY | constants.O_RDWR)) !== 0) return true
  }
  return false
}

async function isMappedForWriting(pid: string, file: BackingFile): Promise<boolean> {
  const ranges = await memoryOf(pid, file)
  return ranges.some(({ access }) => access[1] === 'w' && access[3] === 's')
}

/** Whether a process has a file open or mapped, besides the descriptor that we look at it with. */
async function isOpen(pid: string, file: BackingFile): Promise<boolean> {
  const descriptors = await descriptorsOf(pid, file)
  const ours = Number(pid) === process.pid ? 1 : 0
  return descriptors.length > ours || (await memoryOf(pid, file)).length > 0
}

/** The processes that can write to a file, each as a phrase for people. */
export const writersOf = (file: BackingFile): Promise<string[]> =>
  processesThat(
    async (pid) => (await isOpenForWriting(pid, file)) || (await isMappedForWriting(pid, file)),
  )

/** The processes that have a file open, or mapped, each as a phrase for people. */
export const openersOf = (file: BackingFile): Promise<string[]> =>
  processesThat((pid) => isOpen(pid, file))
