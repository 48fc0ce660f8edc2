// The record of a mapping in /run/dmloop: how it was made, for every process that finds it later.
import { randomBytes } from 'node:crypto'
import { basename, join } from 'node:path'
import debug from 'debug'
import {
  isArrayOf,
  isBoolean,
  isCount,
  isObjectOf,
  isOneOf,
  isOptional,
  isString,
  type Check,
} from './checks.js'
import type { Problem } from './kernel/errors.js'
import type { FilesystemIds } from './kernel/filesystems.js'
import { native, result } from './kernel/native.js'
import type { Backend, Guard } from './kernel/policy.js'
import type { DeviceNode } from './kernel/udev.js'

const log = debug('dmloop:record')

/** Empty after a reboot, when the mappings are gone as well; writable before the root filesystem is. */
export const DIRECTORY = '/run/dmloop'

const SUFFIX = '.json'

export const recordPath = (identity: string): string => join(DIRECTORY, identity + SUFFIX)

/** What the partition table says of a partition; bytes. */
export interface RecordedPartition {
  number: number
  start: number
  size: number
  type: string
  uuid: string | undefined
  name: string | undefined
  /** Its device, where that is one of device-mapper. */
  node?: DeviceNode
}

/** How a mapping was made, for every process that finds it later. */
export interface MappingRecord {
  /** Distinguishes this mapping from an earlier or later one of the same file. */
  id: string
  uuid: string
  /** The device. */
  node: DeviceNode
  /** Without symbolic links, in the order of the device. */
  files: string[]
  /** Of each file; see `BackingFile.identity`. */
  identities: string[]
  /** Bytes. */
  offset: number
  /** The device's size, in bytes. */
  length: number
  readOnly: boolean
  holes: 'reject' | 'zero'
  guard: Guard
  /** See `MapOptions.fence`; undefined where it is not known. */
  fence?: boolean
  /** The identities of the files that bear the mark of this mapping's guard. */
  marked: string[]
  /** The filesystem of each file; undefined where it was not noted. */
  filesystems?: FilesystemIds[]
  /** See `MapOptions.udevScan`; undefined where it is not known. */
  udevScan: boolean | undefined
  backend: Backend
  /** A loop device's logical block size, in bytes. */
  blockSize?: number
  /** The loop devices: /dev/loopN, and the name that the driver keeps. Several are joined by the device. */
  loops: { number: number; name: string }[]
  /** See `MappedDevice.fallback`. */
  fallback: Problem[]
  /** The partitions that devices were made for, in their order. */
  partitions: RecordedPartition[]
  /** See `MappedDevice.partitionProblems`. */
  partitionProblems: Problem[]
}

/** Unique among mappings; short, because it is part of the mark. */
export const newId = (): string => randomBytes(6).toString('base64url')

/** A record of a new mapping of these files. */
export const newRecord = (
  id: string,
  files: readonly { path: string; identity: string }[],
  {
    offset,
    readOnly,
    holes,
    udevScan,
  }: Pick<MappingRecord, 'offset' | 'readOnly' | 'holes' | 'udevScan'>,
  device: Pick<
    MappingRecord,
    | 'uuid'
    | 'node'
    | 'length'
    | 'guard'
    | 'fence'
    | 'marked'
    | 'filesystems'
    | 'backend'
    | 'blockSize'
    | 'loops'
    | 'fallback'
  >,
): MappingRecord => ({
  id,
  files: files.map(({ path }) => path),
  identities: files.map(({ identity }) => identity),
  offset,
  readOnly,
  holes,
  udevScan,
  partitions: [],
  partitionProblems: [],
  ...device,
})

/** The record in a text; undefined when it is none of this version. */
export function parseRecord(text: string): MappingRecord | undefined {
  const [line = '', ...rest] = text.split('\n')
  // A lock without a mapping is an empty file. A line without an end is still being written.
  if (rest.length === 0) return undefined
  try {
    const record: unknown = JSON.parse(line)
    return isRecord(record) ? record : undefined
  } catch (error) {
    log('not a record: %o', error)
    return undefined
  }
}

const isNode = isObjectOf({ name: isString, major: isCount, minor: isCount })
const isProblem = isObjectOf({
  code: isString,
  message: isString,
  remedy: isString,
  blocks: isString,
})

const RECORD = {
  id: isString,
  uuid: isString,
  node: isNode,
  files: isArrayOf(isString),
  identities: isArrayOf(isString),
  offset: isCount,
  length: isCount,
  readOnly: isBoolean,
  holes: isOneOf('reject', 'zero'),
  guard: isOneOf('immutable', 'swapfile', 'none'),
  fence: isOptional(isBoolean),
  marked: isArrayOf(isString),
  filesystems: isOptional(isArrayOf(isObjectOf({ uuid: isString, volume: isString }))),
  udevScan: isOptional(isBoolean),
  backend: isOneOf('linear', 'loop'),
  blockSize: isOptional(isCount),
  loops: isArrayOf(isObjectOf({ number: isCount, name: isString })),
  fallback: isArrayOf(isProblem),
  partitions: isArrayOf(
    isObjectOf({
      number: isCount,
      start: isCount,
      size: isCount,
      type: isString,
      uuid: isOptional(isString),
      name: isOptional(isString),
      node: isOptional(isNode),
    }),
  ),
  partitionProblems: isArrayOf(isProblem),
} satisfies Record<keyof MappingRecord, Check>

const isRecord = (value: unknown): value is MappingRecord => isObjectOf(RECORD)(value)

/** All records, by the identity of the file that each is for. */
export async function readRecords(): Promise<Map<string, MappingRecord>> {
  const records = new Map<string, MappingRecord>()
  for (const { name, text } of await result(native.readFolder(DIRECTORY, SUFFIX), DIRECTORY)) {
    const record = parseRecord(text)
    if (record) records.set(basename(name, SUFFIX), record)
  }
  return records
}

/** The record of a file's mapping, if there is one. */
export async function readRecord(identity: string): Promise<MappingRecord | undefined> {
  const path = recordPath(identity)
  const text = await result(native.readFirst([path]), path)
  return text === undefined ? undefined : parseRecord(text)
}

/** The names of locks on what is no file: the identity of a file starts with a number. */
export async function lockNames(): Promise<string[]> {
  const files = await result(native.readFolder(DIRECTORY, SUFFIX), DIRECTORY)
  return files.map(({ name }) => basename(name, SUFFIX)).filter((name) => !/^\d/.test(name))
}
