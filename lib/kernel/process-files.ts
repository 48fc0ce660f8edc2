// The descriptors and the memory mappings that a process has of a file, from /proc.
import { openFilesOf } from './processes.js'
import { hexDeviceName, readText } from './sysfs.js'
import { isSameFile, type Inode } from './file-uses.js'

/** An open file, by the facts that /proc shows of it as well. */
export interface OpenFile {
  facts: Inode
}

/** A range of a process's memory that maps the file. */
export interface MemoryRange {
  /** The first address: a multiple of the page size, which a number holds whatever its size. */
  start: number
  /** Bytes. */
  length: number
  /** As in proc_pid_maps(5): "rw-s". */
  access: string
}

/** The descriptors that a process has of a file. */
export async function descriptorsOf(pid: string, { facts }: OpenFile): Promise<string[]> {
  const descriptors: string[] = []
  for await (const { descriptor, fsMajor, fsMinor, inode } of openFilesOf(pid)) {
    if (isSameFile({ major: fsMajor, minor: fsMinor, inode }, facts)) descriptors.push(descriptor)
  }
  return descriptors
}

/** Where a process has a file mapped. A memory mapping survives its descriptor. */
export async function memoryOf(pid: string, { facts }: OpenFile): Promise<MemoryRange[]> {
  const maps = (await readText(`/proc/${pid}/maps`).catch(() => undefined)) ?? ''
  const device = hexDeviceName(facts.filesystem.major, facts.filesystem.minor)
  return maps
    .split('\n')
    .map((line) => line.split(/ +/))
    .filter(([, , , on, inode]) => on === device && inode === facts.inode)
    .map(([range = '', access = '']) => {
      const [start = 0, end = 0] = range.split('-').map((address) => parseInt(address, 16))
      return { start, length: end - start, access }
    })
}
