// What a caller of an ImageStore may ask for; checked before anything is touched.
import { invalidType, invalidValue } from '../kernel/errors.js'
import { SECTOR } from '../kernel/segments.js'
import {
  boolean,
  integer,
  listener,
  object,
  parsePath,
  signalOf,
  type Options,
} from '../plan/arguments.js'
import type { ProgressListener } from '../plan/progress.js'
import type { CreateOptions } from '../images/options.js'
import type { MapOptions } from '../options.js'
import { checkedName } from '../plan/names.js'
import { BOOT_KINDS, type BootKind } from './boot-files.js'
import type { SuperPartition } from './export-lp.js'

export interface StoreOptions {
  /**
   * The directory of the metadata. Default: `.dmloop` in the directory of the images. To map images while their
   * filesystem is not mounted, it must be on another one.
   */
  metadata?: string
}

/** As for createImage, less `overwrite`; and how the image is mapped. */
export interface StoreCreateOptions extends Omit<CreateOptions, 'overwrite' | 'guard'> {
  /** The image is only ever mapped read-only. Default false. */
  readOnly?: boolean
  /** Mapping the image makes devices for its partitions too. Default false. */
  partitions?: boolean
}

/** As for mapFile. */
export type StoreMapOptions = Pick<
  MapOptions,
  'name' | 'udevScan' | 'verify' | 'fence' | 'onProgress' | 'timeout' | 'signal'
>

export interface ResizeOptions {
  /** Called with the progress in bytes of what is added. */
  onProgress?: ProgressListener
  /** Aborts the call, and then the image is as before. */
  signal?: AbortSignal
}

export interface MapAllOptions {
  /** As for mapFile. Default false. */
  fence?: boolean
  /** Called with the bytes of the images that are mapped. */
  onProgress?: ProgressListener
  /** Aborts the call: the images that are mapped stay so. */
  signal?: AbortSignal
}

export interface ExportBootOptions {
  /** The directory that stands for `/`, to write the files for another machine. Default `/`. */
  root?: string
  /**
   * Wrappers that are to be made although no image needs them yet: of the partition that the root filesystem is
   * still mounted on directly, say.
   */
  wrappers?: readonly NewWrapper[]
}

/** A wrapper that a boot is to make. */
export interface NewWrapper {
  /** The path of a block device, which may be in use now. */
  device: string
  /** The device-mapper name. */
  name: string
}

export interface LpExportOptions {
  /**
   * The partition that is to have the metadata at its start. Left out: the metadata are for a file, as Android has
   * one beside its images.
   */
  super?: SuperPartition
}

export interface LpImportOptions {
  /** Which of a disk's tables, from 0 on. Default 0. */
  slot?: number
  /** Mapping the images makes devices for their partitions too. Default false. */
  partitions?: boolean
}

/** Names are those of files and of devices: what udev leaves as it is, and no dot at the start. */
const NAME = /^[A-Za-z0-9#+\-:=@_][A-Za-z0-9#+\-.:=@_]{0,99}$/

export function parseName(value: unknown): string {
  const name = parsePath(value, 'name')
  if (NAME.test(name)) return name
  throw invalidValue(
    'name',
    '1 to 100 letters, digits and #+-.:=@_, without a dot at the start',
    name,
  )
}

export function parseStoreOptions(
  directory: unknown,
  value: unknown,
): { directory: string; metadata: string | undefined } {
  const options = object(value, ['metadata'])
  return {
    directory: parsePath(directory, 'directory'),
    metadata:
      options.metadata === undefined ? undefined : parsePath(options.metadata, 'options.metadata'),
  }
}

export interface StoreCreateRequest {
  readOnly: boolean
  partitions: boolean
  /** What createImage checks. */
  image: Options
}

export function parseStoreCreateOptions(value: unknown): StoreCreateRequest {
  const options = object(value, [
    ...['size', 'from', 'sha256', 'maxExtents', 'maxFileSize', 'onProgress', 'signal'],
    ...['readOnly', 'partitions'],
  ])
  const { readOnly: _readOnly, partitions: _partitions, ...image } = options
  return {
    readOnly: boolean(options, 'readOnly'),
    partitions: boolean(options, 'partitions'),
    image,
  }
}

const MAP_KEYS = [
  ...(['name', 'udevScan', 'verify', 'fence'] as const),
  ...(['onProgress', 'timeout', 'signal'] as const),
]

/** The rest is checked by mapFile. */
export const parseStoreMapOptions = (value: unknown): StoreMapOptions => object(value, MAP_KEYS)

export function parseExportBootOptions(
  kind: unknown,
  value: unknown,
): { kind: BootKind; root: string; wrappers: NewWrapper[] } {
  const found = BOOT_KINDS.find((each) => each === kind)
  if (!found) throw invalidValue('kind', `one of ${BOOT_KINDS.join(', ')}`, kind)
  const options = object(value, ['root', 'wrappers'])
  const root = options.root === undefined ? '/' : parsePath(options.root, 'options.root')
  const wrappers = options.wrappers ?? []
  if (!Array.isArray(wrappers)) throw invalidType('options.wrappers', 'an array', wrappers)
  return { kind: found, root, wrappers: wrappers.map(parseWrapper) }
}

function parseWrapper(value: unknown, index: number): NewWrapper {
  const { device, name } = object(value, ['device', 'name'])
  const of = `options.wrappers[${index}]`
  return {
    device: parsePath(device, `${of}.device`),
    name: checkedName(parsePath(name, `${of}.name`)),
  }
}

export function parseLpExportOptions(
  file: unknown,
  value: unknown,
): { path: string; super: SuperPartition | undefined } {
  const { super: asked } = object(value, ['super'])
  const path = parsePath(file, 'file')
  if (asked === undefined) return { path, super: undefined }
  const options = object(asked, ['name', 'size'])
  const name = parsePath(options.name, 'options.super.name')
  const size = integer(options, 'size', SECTOR)
  if (size === undefined) throw invalidType('options.super.size', 'a number of bytes', size)
  return { path, super: { name, size } }
}

export function parseLpImportOptions(
  file: unknown,
  value: unknown,
): { path: string; slot: number; partitions: boolean } {
  const options = object(value, ['slot', 'partitions'])
  return {
    path: parsePath(file, 'file'),
    slot: integer(options, 'slot', 0) ?? 0,
    partitions: boolean(options, 'partitions'),
  }
}

interface ProgressRequest {
  onProgress: ProgressListener | undefined
  signal: AbortSignal | undefined
}

const PROGRESS_KEYS = ['onProgress', 'signal'] as const

const progressOf = (options: Options): ProgressRequest => ({
  onProgress: listener(options, 'onProgress'),
  signal: signalOf(options),
})

export const parseProgressOptions = (value: unknown): ProgressRequest =>
  progressOf(object(value, PROGRESS_KEYS))

export function parseMapAllOptions(value: unknown): ProgressRequest & { fence: boolean } {
  const options = object(value, ['fence', ...PROGRESS_KEYS])
  return { ...progressOf(options), fence: boolean(options, 'fence') }
}
