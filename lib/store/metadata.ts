// The metadata of an image: how to map it, for a time when its filesystem is not mounted.
import { mkdir, readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import {
  isArrayOf,
  isBoolean,
  isCount,
  isObjectOf,
  isOneOf,
  isString,
  type Check,
} from '../checks.js'
import { dmloopError, isSystemError } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { replaceFile, syncFolder } from '../kernel/path.js'
import type { DiskName } from './disk-name.js'

/** Metadata of another version are refused, and left alone. */
const VERSION = 1

const SUFFIX = '.json'

/** The device of the filesystem that has an image's files. */
export type HostName = DiskName | { by: 'WRAPPER'; name: string; disk: DiskName }

export interface ImageMetadata {
  version: typeof VERSION
  /** What its label says: unlike the name, no other image ever has it. */
  id: string
  /** Anything but `ready` is what a killed process was doing: the next call finishes or undoes it. */
  state: 'creating' | 'ready' | 'resizing' | 'deleting'
  /** To be deleted when it is no longer in use; not mapped meanwhile. */
  disabled: boolean
  readOnly: boolean
  /** Whether there is to be a device for each of its partitions. */
  partitions: boolean
  /** Bytes. */
  size: number
  /** In the order of the device: the name in the store's directory, and what identifies the file there. */
  files: { name: string; handle: string }[]
  /** None while it is being created. */
  host: HostName | null
  /** The disks that have its blocks. */
  disks: DiskName[]
  /** Start, length, index into `disks`, start on the disk: in sectors. */
  segments: number[][]
  /** Where its label is: a disk, and a sector there. */
  label: { disk: number; sector: number }
}

const isDisk = isObjectOf({ by: isOneOf('PARTUUID', 'UUID', 'DM'), value: isString, size: isCount })
const isHost: Check = (value) =>
  value === null ||
  isDisk(value) ||
  isObjectOf({ by: isOneOf('WRAPPER'), name: isString, disk: isDisk })(value)
const isRow: Check = (value) => isArrayOf(isCount)(value) && (value as number[]).length === 4

const METADATA = {
  version: isOneOf(VERSION),
  id: isString,
  state: isOneOf('creating', 'ready', 'resizing', 'deleting'),
  disabled: isBoolean,
  readOnly: isBoolean,
  partitions: isBoolean,
  size: isCount,
  files: isArrayOf(isObjectOf({ name: isString, handle: isString })),
  host: isHost,
  disks: isArrayOf(isDisk),
  segments: isArrayOf(isRow),
  label: isObjectOf({ disk: isCount, sector: isCount }),
} satisfies Record<keyof ImageMetadata, Check>

/** Whether the numbers of segments fit together: end to end, on disks that are named, and within them. */
function isConsistent({ size, disks, segments, label, state }: ImageMetadata): boolean {
  let end = 0
  for (const [start, length = 0, disk = 0, offset = 0] of segments) {
    const bytes = disks[disk]?.size ?? 0
    if (start !== end || length === 0 || (offset + length) * 512 > bytes) return false
    end += length
  }
  if (state === 'creating') return true
  return end * 512 === size && (label.sector + 8) * 512 <= (disks[label.disk]?.size ?? 0)
}

/** Throws DMLOOP_BAD_METADATA. */
function parse(path: string, text: string): ImageMetadata {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error)
    throw dmloopError('DMLOOP_BAD_METADATA', { file: path }, `is not valid JSON: ${detail}`)
  }
  const { version } = (value ?? {}) as { version?: unknown }
  if (version !== VERSION) {
    const detail = `has version ${JSON.stringify(version)}, and this library reads ${VERSION}`
    throw dmloopError('DMLOOP_BAD_METADATA', { file: path }, detail)
  }
  if (isObjectOf(METADATA)(value) && isConsistent(value as ImageMetadata)) {
    return value as ImageMetadata
  }
  throw dmloopError('DMLOOP_BAD_METADATA', { file: path }, 'is damaged')
}

/** A directory with a file for each image. */
export class MetadataFolder {
  readonly path: string

  constructor(path: string) {
    this.path = path
  }

  async create(): Promise<void> {
    await mkdir(this.path, { recursive: true, mode: 0o700 })
  }

  #pathOf(name: string): string {
    return join(this.path, name + SUFFIX)
  }

  lockPath(name: string): string {
    return join(this.path, `${name}.lock`)
  }

  /** The names of all images, in their order. */
  async names(): Promise<string[]> {
    return (await readdir(this.path))
      .filter((file) => file.endsWith(SUFFIX))
      .map((file) => file.slice(0, -SUFFIX.length))
      .sort()
  }

  /** Undefined where there is none. Rejects with DMLOOP_BAD_METADATA. */
  async read(name: string): Promise<ImageMetadata | undefined> {
    const path = this.#pathOf(name)
    const text = await result(native.readFirst([path]), path)
    return text === undefined ? undefined : parse(path, text)
  }

  /** Writes the metadata of an image: after a crash there are the old or the new. The image must be locked. */
  async write(name: string, metadata: ImageMetadata): Promise<void> {
    await replaceFile(this.#pathOf(name), `${JSON.stringify(metadata)}\n`, 0o600)
  }

  async remove(name: string): Promise<void> {
    await unlink(this.#pathOf(name)).catch((error: unknown) => {
      if (!isSystemError(error, 'ENOENT')) throw error
    })
    await syncFolder(this.path)
  }
}

export const newMetadata = (
  id: string,
  { readOnly, partitions }: Pick<ImageMetadata, 'readOnly' | 'partitions'>,
): ImageMetadata => ({
  version: VERSION,
  id,
  state: 'creating',
  disabled: false,
  readOnly,
  partitions,
  size: 0,
  files: [],
  host: null,
  disks: [],
  segments: [],
  label: { disk: 0, sector: 0 },
})
