// Who has a file open, as far as this process can see.
import { constants } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { descriptorsOf, memoryOf, type OpenFile } from './process-files.js'
import { describeProcessesWhere } from './processes.js'

async function isOpenForWriting(pid: string, file: OpenFile): Promise<boolean> {
  for (const descriptor of await descriptorsOf(pid, file)) {
    // proc_pid_fdinfo(5): the flags of open(2), in octal.
    const info = await readFile(`/proc/${pid}/fdinfo/${descriptor}`, 'utf8').catch(() => '')
    const flags = parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? '0', 8)
    if ((flags & (constants.O_WRONLY | constants.O_RDWR)) !== 0) return true
  }
  return false
}

async function isMappedForWriting(pid: string, file: OpenFile): Promise<boolean> {
  const ranges = await memoryOf(pid, file)
  return ranges.some(({ access }) => access[1] === 'w' && access[3] === 's')
}

/** Whether a process has a file open or mapped; this one, besides the descriptor that it checks with. */
async function isOpen(pid: string, file: OpenFile): Promise<boolean> {
  const descriptors = await descriptorsOf(pid, file)
  const own = Number(pid) === process.pid ? 1 : 0
  return descriptors.length > own || (await memoryOf(pid, file)).length > 0
}

/** Describes the processes that can write to a file. */
export const writersOf = (file: OpenFile): Promise<string[]> =>
  describeProcessesWhere(
    async (pid) => (await isOpenForWriting(pid, file)) || (await isMappedForWriting(pid, file)),
  )

/** Describes the processes that have a file open, or mapped. */
export const openersOf = (file: OpenFile): Promise<string[]> =>
  describeProcessesWhere((pid) => isOpen(pid, file))
