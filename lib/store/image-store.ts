// Images by name: a directory with their files, and one with what is needed to map them before it can be reached.
import { randomUUID } from 'node:crypto'
import { basename, join } from 'node:path'
import debug from 'debug'
import { withoutBatches } from '../kernel/batch.js'
import { withDeadline } from '../kernel/deadline.js'
import { alreadyMapped } from '../kernel/device-mapper.js'
import { DmloopError, dmloopError, isSystemError } from '../kernel/errors.js'
import type { SegmentTable } from '../kernel/segments.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { createImage } from '../images/create-image.js'
import { ImageTarget } from '../images/image-target.js'
import { mapFile } from '../map-file.js'
import type { MappedDevice, Verification } from '../mapped-device.js'
import { openMapping } from '../open-mapping.js'
import type { UnmapOptions } from '../options.js'
import type { Partition } from '../partitions.js'
import type { BootKind } from './boot-files.js'
import { DiskFinder } from './disk-name.js'
import { bootPlan, writeBootFiles, type BootImage } from './export-boot.js'
import { encodeImages, writeExport, type NamedImage } from './export-lp.js'
import { growImage, undoGrowth } from './grow-image.js'
import { ImageLock } from './image-lock.js'
import { adoptFiles, assertDescribed, readDescribed } from './import-lp.js'
import { assertNotClaimed, keepFiles } from './kept-files.js'
import { appendLabel } from './label.js'
import { mapEach, type MappedImages } from './map-each.js'
import { nodeOf, StoredMapper } from './map-stored.js'
import { MetadataFolder, newMetadata, type ImageMetadata } from './metadata.js'
import {
  parseExportBootOptions,
  parseLpExportOptions,
  parseLpImportOptions,
  parseMapAllOptions,
  parseName,
  parseProgressOptions,
  parseStoreCreateOptions,
  parseStoreMapOptions,
  parseStoreOptions,
  type ExportBootOptions,
  type LpExportOptions,
  type LpImportOptions,
  type MapAllOptions,
  type ResizeOptions,
  type StoreCreateOptions,
  type StoreMapOptions,
  type StoreOptions,
} from './options.js'
import { assertRemovable, removeFiles } from './remove-files.js'
import { deviationsOf, storedTable } from './stored-table.js'
import { assertValid, validateImage } from './validate-image.js'

const log = debug('dmloop:image-store')

/** An image of a store. */
export interface StoredImage {
  name: string
  /** Bytes. */
  size: number
  readOnly: boolean
  /** Whether mapping it makes devices for its partitions. */
  partitions: boolean
  /** Whether it is to be deleted as soon as it is not in use. */
  disabled: boolean
  /** The paths of its files, in the order of the device. */
  files: string[]
  segmentCount: number
}

const SUFFIX = '.img'

export class ImageStore {
  /** The directory of the images. */
  readonly directory: string
  readonly #metadata: MetadataFolder

  private constructor(directory: string, metadata: MetadataFolder) {
    this.directory = directory
    this.#metadata = metadata
  }

  /** Opens a store, which is made when its first image is. The directory of the images may be out of reach. */
  static async open(directory: string, options?: StoreOptions): Promise<ImageStore> {
    const { metadata, ...request } = parseStoreOptions(directory, options)
    const folder = new MetadataFolder(metadata ?? join(request.directory, '.dmloop'))
    const store = new ImageStore(request.directory, folder)
    if (metadata !== undefined) await folder.create()
    return store
  }

  /**
   * Makes an image like createImage, guards its files, and records where their blocks are. The guard stays until
   * the image is deleted. Rejects with DMLOOP_IMAGE_EXISTS, and like createImage and mapFile; then nothing is left.
   */
  async create(name: string, options: StoreCreateOptions): Promise<StoredImage> {
    const request = parseStoreCreateOptions(options)
    await this.#metadata.create()
    await using _ = await this.#lock(name)
    const left = await this.#metadata.read(name)
    if (left && left.state !== 'creating' && left.state !== 'deleting') {
      throw dmloopError('DMLOOP_IMAGE_EXISTS', { file: name })
    }
    if (left) await this.#remove(name, left)
    const metadata = newMetadata(randomUUID(), request)
    const path = join(this.directory, name + SUFFIX)
    // A file with this name that is there already is its owner's; from now on, it is the image's.
    const target = await ImageTarget.of(path)
    const [existing] = await target.existing()
    if (existing !== undefined) throw dmloopError('DMLOOP_IMAGE_EXISTS', { file: existing })
    await assertNotClaimed(this.directory)
    await this.#metadata.write(name, metadata)
    try {
      const paths = await createImage(path, request.image)
      await this.#metadata.write(name, { ...metadata, files: fileNames(paths) })
      await appendLabel(paths.at(-1) ?? '', metadata.id)
      const blocks = await keepFiles(paths, { ...DEFAULT_WAIT, mapped: false })
      const ready: ImageMetadata = { ...metadata, ...blocks, state: 'ready' }
      await this.#metadata.write(name, ready)
      log('%s is created', name)
      return this.#describe(name, ready)
    } catch (error) {
      const isForeign = error instanceof DmloopError && error.code === 'DMLOOP_IMAGE_EXISTS'
      const now = (await this.#metadata.read(name)) ?? metadata
      // Somebody has put a file of theirs there meanwhile.
      const undone = isForeign ? this.#metadata.remove(name) : this.#remove(name, now)
      await undone.catch((failure: unknown) => {
        if (error instanceof Error) error.cause ??= failure
      })
      throw error
    }
  }

  /** Rejects with DMLOOP_NO_SUCH_IMAGE. */
  async get(name: string): Promise<StoredImage> {
    return this.#describe(name, await this.#read(name))
  }

  /** All images, in the order of their names; those with DMLOOP_BAD_METADATA make it reject. */
  async list(): Promise<StoredImage[]> {
    return (await this.#images()).map(({ name, metadata }) => this.#describe(name, metadata))
  }

  /**
   * Maps an image like mapFile, or from its metadata alone where its file cannot be reached. Rejects with
   * DMLOOP_NO_SUCH_IMAGE, also for an image that is disabled; with DMLOOP_FILE_CHANGED for a file that is not the
   * image's; and like mapFile.
   */
  async map(name: string, options?: StoreMapOptions): Promise<MappedDevice> {
    const request = parseStoreMapOptions(options)
    await using _ = await this.#lock(name)
    const metadata = await this.#read(name)
    if (metadata.disabled) throw noSuchImage(name, 'is disabled')
    await using mapper = await StoredMapper.open()
    if (await mapper.isHostMounted(metadata)) return await this.#mapFiles(name, request)
    const { path, wasMapped } = await mapper.map(request.name ?? name, metadata, request)
    if (wasMapped) throw alreadyMapped(name, path)
    return await openMapping(path)
  }

  /** Maps an image whose files can be looked at. */
  async #mapFiles(name: string, request: StoreMapOptions): Promise<MappedDevice> {
    const metadata = await this.#ready(name)
    const paths = this.#paths(metadata)
    await assertValid(paths, metadata)
    const { size: length, readOnly, partitions } = metadata
    return await mapFile(paths, { name, ...request, length, readOnly, partitions })
  }

  /** Removes the device of an image, like MappedDevice.unmap. Its guard stays. Rejects with DMLOOP_NOT_MAPPED. */
  async unmap(name: string, options?: UnmapOptions): Promise<void> {
    await using _ = await this.#lock(name)
    const device = await this.#deviceOf(await this.#read(name))
    if (device === undefined) throw dmloopError('DMLOOP_NOT_MAPPED', { file: name })
    await (await openMapping(device)).unmap(options)
  }

  async isMapped(name: string): Promise<boolean> {
    return (await this.#deviceOf(await this.#read(name))) !== undefined
  }

  /** Deletes an image. Rejects with DMLOOP_IMAGE_IN_USE while it is mapped. */
  async delete(name: string): Promise<void> {
    await using _ = await this.#lock(name)
    const metadata = await this.#metadata.read(name)
    if (!metadata) throw noSuchImage(name)
    await this.#assertUnused(name, metadata)
    await this.#remove(name, metadata)
  }

  /** Has an image deleted by the next `removeDisabled`, and mapped by nobody until then. */
  async disable(name: string): Promise<void> {
    await using _ = await this.#lock(name)
    const metadata = await this.#read(name)
    await this.#metadata.write(name, { ...metadata, disabled: true })
  }

  /** Deletes the images that are disabled and not mapped. Returns their names. */
  async removeDisabled(): Promise<string[]> {
    const removed: string[] = []
    for (const name of await this.#names()) {
      await using _ = await this.#lock(name)
      const metadata = await this.#metadata.read(name)
      if (!metadata || (isImage(metadata) && !metadata.disabled)) continue
      if ((await this.#deviceOf(metadata)) !== undefined) continue
      await this.#remove(name, metadata)
      removed.push(name)
    }
    return removed
  }

  /** Deletes all images. Rejects with DMLOOP_IMAGE_IN_USE, and then has deleted none, while one of them is mapped. */
  async removeAll(): Promise<void> {
    const names = await this.#names()
    for (const name of names) {
      const metadata = await this.#metadata.read(name)
      if (metadata) await this.#assertUnused(name, metadata)
    }
    for (const name of names) {
      await this.delete(name).catch((error: unknown) => {
        if (!(error instanceof DmloopError) || error.code !== 'DMLOOP_NO_SUCH_IMAGE') throw error
      })
    }
  }

  /**
   * Makes an image larger, in place, mapped or not: what is added reads as zeros. Meanwhile nobody else can have
   * its file open. `size` is in bytes, and more than the image has by a multiple of 4096. Rejects with a RangeError for
   * less than it has, and with DMLOOP_NO_SPACE; then the image is as before.
   */
  async resize(name: string, size: number, options?: ResizeOptions): Promise<void> {
    const request = parseProgressOptions(options)
    await using _ = await this.#lock(name)
    const metadata = await this.#ready(name)
    const device = await this.#deviceOf(metadata)
    await growImage(this.#paths(metadata), metadata, {
      ...request,
      size,
      mapped: device !== undefined,
      write: (changed) => this.#metadata.write(name, changed),
    })
    if (device !== undefined) await (await openMapping(device)).extend()
  }

  /**
   * Compares what is recorded of an image with its files: their blocks, all that differ; the guard; the label.
   */
  async validate(name: string): Promise<Verification> {
    await using _ = await this.#lock(name)
    const metadata = await this.#read(name)
    return await withDeadline(DEFAULT_WAIT, () => validateImage(this.#paths(metadata), metadata))
  }

  /**
   * Maps all images that are not disabled, from their metadata alone: their filesystem need not be mounted, and is
   * to be mounted through the wrapper that is made for it. What keeps an image from being mapped is a problem of
   * its own, and the others are mapped.
   */
  async mapAll(options?: MapAllOptions): Promise<MappedImages> {
    const { fence, ...request } = parseMapAllOptions(options)
    await using mapper = await StoredMapper.open()
    return await mapEach(await this.#names(), {
      ...request,
      sizeOf: async (name) => (await this.#readMappable(name))?.size,
      map: async (name) => {
        await using _ = await this.#lock(name)
        // Another process may have changed the image meanwhile.
        const metadata = await this.#readMappable(name)
        return metadata && (await this.#mapWith(mapper, name, metadata, { fence }))
      },
    })
  }

  /** The path of the device of an image, which may be mapped already. */
  async #mapWith(
    mapper: StoredMapper,
    name: string,
    metadata: ImageMetadata,
    options: { fence: boolean },
  ): Promise<string> {
    if (!(await mapper.isHostMounted(metadata))) {
      return (await mapper.map(name, metadata, options)).path
    }
    const device = await mapper.findDevice(metadata)
    if (device) return await nodeOf(device)
    // It writes the files' journals, and reads their extents: others need not wait for that.
    return (await withoutBatches(() => this.#mapFiles(name, options))).path
  }

  /**
   * Writes the files that have these images mapped at boot, by sh and dmsetup alone, before their filesystem is
   * mounted: all that are not disabled, with the wrapper of their filesystem and with their partitions. Returns the
   * paths of the files. Afterwards the initramfs is to be made again, and again after a resize, a create or a delete.
   */
  async exportBoot(kind: BootKind, options?: ExportBootOptions): Promise<string[]> {
    const request = parseExportBootOptions(kind, options)
    const images: BootImage[] = []
    for (const { name, metadata } of await this.#images()) {
      if (metadata.disabled) continue
      images.push({ name, metadata, partitions: await this.#partitionsOf(name, metadata) })
    }
    const plan = await bootPlan(images, request.wrappers, new DiskFinder(DEFAULT_WAIT))
    return await writeBootFiles(plan, request.kind, request.root)
  }

  /** The partitions of an image that is to have devices for them; it is mapped for a moment where it is not. */
  async #partitionsOf(name: string, metadata: ImageMetadata): Promise<readonly Partition[]> {
    if (!metadata.partitions) return []
    const path = await this.#deviceOf(metadata)
    if (path !== undefined) return (await openMapping(path)).partitions
    await using device = await this.map(name)
    return device.partitions
  }

  /**
   * Writes a file with all images as Android's logical partition metadata (lp_metadata, 10.0 or, with disabled images,
   * 10.1): other tools map them by it. Rejects with DMLOOP_NOT_REPRESENTABLE for what the format does not have.
   */
  async exportLpMetadata(file: string, options?: LpExportOptions): Promise<void> {
    const { path, super: superPartition } = parseLpExportOptions(file, options)
    const finder = new DiskFinder(DEFAULT_WAIT)
    await writeExport(path, await encodeImages(await this.#images(), finder, superPartition))
  }

  /**
   * Makes images of files that are in the directory already, NAME.img or NAME.img.0000 ..., and that logical partition
   * metadata describe, in a file or at the start of a block device. Returns all images that it describes; those that
   * the store has already stay. Rejects with DMLOOP_BAD_IMAGE; with DMLOOP_IMAGE_EXISTS for another image of a name;
   * with ENOENT, with DMLOOP_FILE_CHANGED where a file is stored elsewhere than its partition, and as mapFile refuses
   * files, before any has become an image.
   */
  async importLpMetadata(file: string, options?: LpImportOptions): Promise<StoredImage[]> {
    const { path, slot, partitions } = parseLpImportOptions(file, options)
    const finder = new DiskFinder(DEFAULT_WAIT)
    const described = await readDescribed(path, slot, finder)
    for (const image of described) await assertDescribed(await this.#pathsOf(image.name), image)
    await this.#metadata.create()
    const images: StoredImage[] = []
    for (const image of described) {
      const { name } = image
      await using _ = await this.#lock(name)
      const known = await this.#metadata.read(name)
      if (known) await assertSameImage(name, known, image.table, finder)
      const paths = await this.#pathsOf(name)
      const metadata = known ?? (await adoptFiles(paths, image, { partitions, finder }))
      if (!known) await this.#metadata.write(name, metadata)
      images.push(this.#describe(name, metadata))
    }
    return images
  }

  /** Where the files of an image are that is not recorded; that of the only one, where none is. */
  async #pathsOf(name: string): Promise<string[]> {
    const target = await ImageTarget.of(join(this.directory, parseName(name) + SUFFIX))
    const existing = await target.existing()
    return existing.length > 0 ? existing : [target.path]
  }

  /** All images with their metadata, in the order of their names. */
  async #images(): Promise<NamedImage[]> {
    const images: NamedImage[] = []
    for (const name of await this.#names()) {
      const metadata = await this.#metadata.read(name)
      if (metadata && isImage(metadata)) images.push({ name, metadata })
    }
    return images
  }

  async #readMappable(name: string): Promise<ImageMetadata | undefined> {
    const metadata = await this.#metadata.read(name)
    return metadata && isMappable(metadata) ? metadata : undefined
  }

  #lock(name: string): Promise<ImageLock> {
    return ImageLock.take(this.#metadata.lockPath(parseName(name)), DEFAULT_WAIT)
  }

  async #names(): Promise<string[]> {
    try {
      return await this.#metadata.names()
    } catch (error) {
      // No image was ever made.
      if (isSystemError(error, 'ENOENT')) return []
      throw error
    }
  }

  async #read(name: string): Promise<ImageMetadata> {
    const metadata = await this.#metadata.read(parseName(name))
    if (metadata && isImage(metadata)) return metadata
    throw noSuchImage(name)
  }

  /** The metadata of a locked image, after what a killed resize has left is finished. */
  async #ready(name: string): Promise<ImageMetadata> {
    const metadata = await this.#read(name)
    if (metadata.state !== 'resizing') return metadata
    await undoGrowth(this.#paths(metadata), metadata, {
      mapped: (await this.#deviceOf(metadata)) !== undefined,
      write: (changed) => this.#metadata.write(name, changed),
    })
    return await this.#read(name)
  }

  #paths({ files }: ImageMetadata): string[] {
    return files.map(({ name }) => join(this.directory, name))
  }

  /** The path of the device of an image, if it is mapped. */
  async #deviceOf(metadata: ImageMetadata): Promise<string | undefined> {
    if (metadata.segments.length === 0) return undefined
    await using mapper = await StoredMapper.open()
    const device = await mapper.findDevice(metadata)
    return device && (await nodeOf(device))
  }

  async #assertUnused(name: string, metadata: ImageMetadata): Promise<void> {
    const device = await this.#deviceOf(metadata)
    if (device === undefined) return
    throw dmloopError('DMLOOP_IMAGE_IN_USE', { file: name }, `is mapped, as ${device}`)
  }

  /** Removes an image, or what is left of one. */
  async #remove(name: string, metadata: ImageMetadata): Promise<void> {
    const paths = await this.#pathsToRemove(name, metadata)
    await assertRemovable(paths, metadata)
    await this.#metadata.write(name, { ...metadata, state: 'deleting' })
    await removeFiles(paths)
    await this.#metadata.remove(name)
    log('%s is removed', name)
  }

  /** A process that was killed while it made the image may have recorded no files yet. */
  async #pathsToRemove(name: string, metadata: ImageMetadata): Promise<string[]> {
    if (metadata.files.length > 0) return this.#paths(metadata)
    return await (await ImageTarget.of(join(this.directory, name + SUFFIX))).existing()
  }

  #describe(name: string, metadata: ImageMetadata): StoredImage {
    const { size, readOnly, partitions, disabled, segments } = metadata
    const files = this.#paths(metadata)
    return { name, size, readOnly, partitions, disabled, files, segmentCount: segments.length }
  }
}

/** Whether there is an image, and not what is left of one. */
const isImage = ({ state }: ImageMetadata): boolean => state === 'ready' || state === 'resizing'

const isMappable = (metadata: ImageMetadata): boolean => isImage(metadata) && !metadata.disabled

const noSuchImage = (name: string, detail?: string): DmloopError =>
  dmloopError('DMLOOP_NO_SUCH_IMAGE', { file: name }, detail)

/** Throws DMLOOP_IMAGE_EXISTS where what is recorded of an image is not what a table says. */
async function assertSameImage(
  name: string,
  metadata: ImageMetadata,
  table: SegmentTable,
  finder: DiskFinder,
): Promise<void> {
  if (!isImage(metadata)) throw dmloopError('DMLOOP_IMAGE_EXISTS', { file: name })
  const [deviation] = deviationsOf(await storedTable(metadata, finder), table)
  if (deviation) throw dmloopError('DMLOOP_IMAGE_EXISTS', { file: name })
}

const fileNames = (paths: readonly string[]): ImageMetadata['files'] =>
  paths.map((path) => ({ name: basename(path), handle: '' }))
