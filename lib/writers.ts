// Who has a file open for writing, as far as this process can see.
import { constants } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import type { BackingFile } from './backing-file.js'
import { processes } from './processes.js'
import { splitDevice } from './sysfs.js'

async function isOpenForWriting(pid: string, { facts }: BackingFile): Promise<boolean> {
  for (const descriptor of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
    const open = await stat(`/proc/${pid}/fd/${descriptor}`, { bigint: true }).catch(
      () => undefined,
    )
    if (open?.ino.toString() !== facts.inode) continue
    const { major, minor } = splitDevice(Number(open.dev))
    if (major !== facts.major || minor !== facts.minor) continue
    // proc_pid_fdinfo(5): the flags of open(2), in octal.
    const info = await readFile(`/proc/${pid}/fdinfo/${descriptor}`, 'utf8').catch(() => '')
    const flags = parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? '0', 8)
    if ((flags & (constants.O_WRONLY | constants.O_RDWR)) !== 0) return true
  }
  return false
}

/** A shared writable mapping outlives the descriptor that it was made with. */
async function isMappedForWriting(pid: string, { facts }: BackingFile): Promise<boolean> {
  const maps = await readFile(`/proc/${pid}/maps`, 'utf8').catch(() => '')
  const device = [facts.major, facts.minor].map((n) => n.toString(16).padStart(2, '0')).join(':')
  return maps.split('\n').some((line) => {
    const [, access = '', , on, inode] = line.split(/ +/)
    return access[1] === 'w' && access[3] === 's' && on === device && inode === facts.inode
  })
}

/** The processes that have a file open, or mapped, each as a phrase for people. */
export async function openersOf(file: BackingFile): Promise<string[]> {
  return await writersOf(file)
}

/** The processes that can write to a file, each as a phrase for people. */
export async function writersOf(file: BackingFile): Promise<string[]> {
  const writers: string[] = []
  for (const { pid, phrase } of await processes()) {
    if ((await isOpenForWriting(pid, file)) || (await isMappedForWriting(pid, file))) {
      writers.push(await phrase())
    }
  }
  return writers
}
