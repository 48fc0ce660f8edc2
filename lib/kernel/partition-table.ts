// Partition tables, as util-linux reads them: GPT (the backup too), MBR and its logical partitions, and others.
import { SECTOR } from './segments.js'
import { runTool } from './tool.js'
import type { WaitLimit } from './wait.js'

const PACKAGE = 'util-linux'

/** An entry of a partition table. */
export interface PartitionEntry {
  /** As the kernel counts: logical partitions from 5. */
  number: number
  /** Bytes. */
  start: number
  /** Bytes. */
  size: number
  /** A GUID of GPT, or the byte of MBR in hexadecimal digits: 0x83. */
  type: string
  /** Of GPT; of MBR, made of the disk's and the number. */
  uuid: string | undefined
  /** Of GPT. */
  name: string | undefined
  /** Whether it is the extended partition, which holds the logical ones. */
  isExtended: boolean
}

/** What is on a disk. */
export interface PartitionTable {
  entries: PartitionEntry[]
  /** Whether the disk is marked as one with a GPT (a protective MBR), which cannot be read. */
  isDamaged: boolean
}

const COLUMNS = 'NR,START,SECTORS,TYPE,UUID,NAME,SCHEME'

/** The types of extended partitions. */
const EXTENDED = new Set(['0x5', '0xf', '0x85'])

/** Rejects with DMLOOP_NO_TOOL where partition tables cannot be read. */
export async function assertPartitionReader(limit: WaitLimit): Promise<void> {
  await runTool('partx', ['--version'], PACKAGE, limit)
}

/**
 * Reads the partition table of a device. A GPT says for which sectors it was made by where it is: after the first
 * sector, or in the last. An MBR does not, and counts in those of the device (`blockSize`, in bytes).
 */
export async function readPartitionTable(
  path: string,
  blockSize: number,
  limit: WaitLimit,
): Promise<PartitionTable> {
  for (const size of new Set([blockSize, 512, 4096])) {
    const gpt = await partx(path, ['--type', 'gpt', '--sector-size', String(size)], limit)
    if (gpt) return { entries: gpt, isDamaged: false }
  }
  const any = await partx(path, [], limit)
  // A table, and nothing in it: an empty one, or a protective MBR.
  const isDamaged = any?.length === 0 && !(await partx(path, ['--type', 'dos'], limit))
  return { entries: any ?? [], isDamaged }
}

/** The entries of a table of a type; undefined where there is none. */
async function partx(
  path: string,
  options: readonly string[],
  limit: WaitLimit,
): Promise<PartitionEntry[] | undefined> {
  const args = [...options, '--pairs', '--output', COLUMNS, path]
  const { status, stdout, stderr } = await runTool('partx', args, PACKAGE, limit)
  if (status === 0) return stdout.split('\n').filter(Boolean).map(parseEntry)
  if (stderr.includes('failed to read partition table')) return undefined
  throw new Error(stderr.trim())
}

/** Text in which partx writes what is not printable, and what a shell would read, as \xHH. */
const unescape = (text: string): string =>
  Buffer.from(
    text.replace(/\\x([0-9a-f]{2})/gi, (_, byte: string) =>
      String.fromCharCode(parseInt(byte, 16)),
    ),
    'latin1',
  ).toString()

/** A line of partx's: NR="1" START="2048" ... Its sectors have 512 bytes, whatever the disk's. */
function parseEntry(line: string): PartitionEntry {
  const pairs = [...line.matchAll(/(\w+)="([^"]*)"/g)]
  const fields = new Map(pairs.map(([, key = '', value = '']) => [key, unescape(value)]))
  const field = (key: string): string | undefined => fields.get(key) || undefined
  const type = field('TYPE') ?? ''
  return {
    number: Number(field('NR')),
    start: Number(field('START')) * SECTOR,
    size: Number(field('SECTORS')) * SECTOR,
    type,
    uuid: field('UUID'),
    name: field('NAME'),
    isExtended: field('SCHEME') === 'dos' && EXTENDED.has(type),
  }
}

/** Has the kernel make a partition that it has not found itself. Returns what addpart says against it. */
export async function addPartition(
  path: string,
  { number, start, size }: Pick<PartitionEntry, 'number' | 'start' | 'size'>,
  limit: WaitLimit,
): Promise<string | undefined> {
  const args = [path, ...[number, start / SECTOR, size / SECTOR].map(String)]
  const { status, stderr } = await runTool('addpart', args, PACKAGE, limit)
  return status === 0 ? undefined : stderr.trim()
}
