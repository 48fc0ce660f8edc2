// The native addon, typed. It reports facts and failures; errors are made here, on the caller's stack.
import { AsyncLocalStorage } from 'node:async_hooks'
import { collecting, type CallCollector } from './batch.js'
import { systemError } from './errors.js'
import { loadAddon } from './load-addon.js'
import type { AddressCall } from './policy.js'

declare const opaque: unique symbol

/** Memory that `write` takes bytes from; see native/image_file.h. */
export interface WriteBuffer {
  readonly [opaque]: 'write buffer'
}

/** A udev cookie, which is destroyed with its last handle at the latest; see native/udev_cookie.h. */
export interface Cookie {
  readonly [opaque]: 'cookie'
}

/** Extents in native memory, a few bytes each. */
export interface ExtentList {
  readonly [opaque]: 'extents'
}

/** Segments that native code computes whenever they are read. */
export interface SegmentSource {
  readonly [opaque]: 'segments'
}

/** Ranges of a file with a common property: how many there are, and the first of them, in bytes. */
export interface Ranges {
  count: number
  offset: number
  length: number
}

/** What FIEMAP reports for a range of a file. */
export interface ExtentFacts {
  extents: ExtentList
  count: number
  /** Ranges without an extent. */
  holes: Ranges
  /** Extents that do not start or end on a logical block, in the file or on the disk. */
  unaligned: Ranges
  /** The extents that have flags (FIEMAP_EXTENT_* of linux/fiemap.h), by all the flags that they have. */
  flagged: (Ranges & { flags: number })[]
}

/** A part of a file, and the underlying devices. */
export interface FilePart {
  extents: ExtentList
  /** The byte of the file that the part starts with. */
  offset: number
  sectors: number
  /** Extents with one of these flags become zero segments, as do holes. */
  zeroFlags: number
  /** Level by level; the numbers of the last level's devices are those of the result. */
  levels: Layer[][]
}

/** Bytes: a bigint where a number would be rounded. */
type ExactSize = number | bigint

export interface DeviceNumber {
  major: number
  minor: number
}

/** The attributes of an open file; see native/file_facts.h. */
export interface FileFacts {
  mode: number
  uid: number
  links: number
  size: ExactSize
  inode: string
  /** The number that fstat(2) has for the filesystem. */
  major: number
  minor: number
  /** That of the filesystem as a whole, and of its device: both differ from the first on btrfs alone. */
  filesystem: DeviceNumber
  device: DeviceNumber
  /** 1 where the filesystem does not say. */
  deviceCount: number
  attributes: number
  filesystemMagic: number
  /** Whether the mount is read-only through which the file was opened; its filesystem may be writable. */
  mountReadOnly: boolean
  /** False where direct I/O is served from the page cache; undefined where the kernel does not say. */
  directIo: boolean | undefined
  /** Size of the filesystem, on all its devices. */
  filesystemSize: ExactSize
  inodeFlags: number
  extendedFlags: number
  /** The file handle (name_to_handle_at(2)) in hexadecimal digits; undefined where there is none. */
  handle: string | undefined
  /** The text of the mark. */
  mark: string | undefined
}

/** All facts of a file except its extents; see native/probe.h. */
export interface FileProbe {
  facts: FileFacts
  kernelName: string | undefined
  /** Bytes. */
  blockSize: number
  deviceSize: ExactSize
  /** The lines of mountinfo for the filesystem. */
  mounts: string
  /** Of the mount that the file was opened through; undefined where /proc lists no such mount. */
  mountIdmapped: boolean | undefined
  ext4Options: string
  swaps: string
  /** Files that the kernel itself uses, the journal among them, as far as this process may ask. */
  filesystemFiles: { role: string; inode: string }[]
  loops: LoopStatus[]
}

export interface OpenedFile {
  fd: number
  /** Without symbolic links. */
  path: string
  /** Whether a write lease of another process keeps it from being opened: see native/probe.h. */
  leased: boolean
  probe: FileProbe
}

/** How a file is attached to a loop device; bytes. */
export interface LoopSettings {
  offset: number
  /** The device's. */
  size: number
  blockSize: number
  readOnly: boolean
  directIo: boolean
  partitionScan: boolean
  /** Stored by the driver (lo_file_name): up to 63 bytes. */
  name: string
}

/** The backing file of a loop device, by device and inode, and how it is attached. */
export interface LoopStatus {
  /** N of /dev/loopN. */
  number: number
  /** The device's own number. It is not 7:N where the driver reserves minors for partitions (max_part). */
  device: { major: number; minor: number }
  major: number
  minor: number
  inode: string
  /** The device whose node the backing file is; 0:0 for any other file. */
  backingDevice: { major: number; minor: number }
  offset: number
  size: number
  /** LO_FLAGS_* of linux/loop.h, as the driver has them. */
  flags: number
  name: string
}

/** A device-mapper device as an ioctl returns it. */
export interface DmDevice {
  name: string
  uuid: string
  major: number
  minor: number
  openCount: number
  targetCount: number
  eventNumber: number
  /** DM_*_FLAG of linux/dm-ioctl.h. */
  flags: number
}

/** A table of the kernel's; segments in 512-byte sectors. */
export interface DmTable {
  /** Four numbers a segment: start, length, device, offset; see `lib/segments.ts`. */
  rows: Float64Array
  /** The parameters of the striped segments; see native/segments.h. */
  stripes: Float64Array
  devices: string[]
  /** The segments of targets other than linear, zero and striped. */
  others: { start: number; length: number; target: string; parameters: string }[]
  device: DmDevice
}

/** How an ioctl names its device. */
export type DmTarget = { name: string } | { uuid: string } | { major: number; minor: number }

/** The table of a device on one level: its device `n` is number `devices[n]` on the next level down. */
export interface Layer {
  rows: Float64Array
  devices: number[]
  stripes?: Float64Array
}

/** A block device as sysfs describes it. */
export interface DeviceFacts {
  /** "major:minor". */
  number: string
  kernelName: string | undefined
  /** Each of a kind of device: device-mapper, md, loop. */
  mapperName: string | undefined
  mdLevel: string | undefined
  backingFile: string | undefined
  /** The numbers of the devices that it is made of. */
  underlying: string[]
}

type Settled<T> = { value: T } | { failure: { errno: number; syscall: string; path?: string } }
/** `call` is the number of the call; see `callProgress`. */
type Pending<T> = Promise<Settled<T>> & { readonly call?: number }
type Call<A extends unknown[], T> = (...args: A) => Pending<T>

/** What is at a path. */
export interface PathFacts {
  isBlockDevice: boolean
  /** The device of its filesystem, and its inode there. */
  fsMajor: number
  fsMinor: number
  inode: string
  /** The number of the device itself, for a node. */
  major: number
  minor: number
}

/** FALLOC_FL_* of linux/falloc.h. */
export const FALLOCATE = { keepSize: 0x1, punchHole: 0x2, unshareRange: 0x40 } as const

interface Addon extends CallCollector {
  /**
   * The last system call of a native call, and how many it has made; undefined when the native call is
   * settled.
   */
  callProgress: (call: number) => { syscall?: string; steps: number } | undefined
  walkExtents: Call<
    [fd: number, call: AddressCall, offset: number, length: number, blockSize: number],
    ExtentFacts
  >
  /** The first byte that is stored elsewhere than in an earlier walk; -1 when there is none. */
  findMovedByte: Call<
    [fd: number, call: AddressCall, offset: number, length: number, extents: ExtentList],
    number
  >
  /** Extents from four numbers each, for ranges that no walk has read. */
  packExtents: (rows: Float64Array) => ExtentList
  /** Some of the extents, four numbers each: logical, physical, length, flags. */
  extentRows: (extents: ExtentList, first: number, count: number) => Float64Array
  /** The descriptor is -1 when it is not a regular file, or leased. */
  openFile: Call<[path: string, writable: boolean], OpenedFile>
  /** Through any mount of the filesystem on that device; see native/probe.h. */
  openFileByHandle: Call<[major: number, minor: number, handle: string], OpenedFile>
  /** A device ("major:minor") and all that it is made of, level by level and each once. */
  readDevices: Call<[device: string], DeviceFacts[]>
  /** In hexadecimal digits; undefined where it is mounted nowhere, or the kernel does not tell. */
  filesystemUuid: Call<[major: number, minor: number], string | undefined>
  /** The mounts of filesystems with a device, in every mount namespace. */
  listMounts: Call<[], { major: number; minor: number; filesystem: string }[]>
  open: Call<[path: string, flags: number], number>
  identify: Call<[path: string], PathFacts>
  probe: Call<[fd: number], FileProbe>
  inspect: Call<[fd: number], FileFacts>
  sync: Call<[fd: number], void>
  /** Whether the ext4 on a device can have data in its inodes. */
  hasInlineData: Call<[device: string], boolean>
  /** Has all that ext4's journal holds written to its place. */
  flushJournal: Call<[fd: number], void>
  close: Call<[fd: number], void>
  /** The text of the first of some files that exists. */
  readFirst: Call<[paths: string[]], string | undefined>
  /** The files of a directory whose names end with the suffix; none when there is no directory. */
  readFolder: Call<[path: string, suffix: string], { name: string; text: string }[]>
  /** The regular files and the folders in a folder; none where the path is not on this mount. */
  listFolder: Call<[path: string, mount: number], { files: string[]; folders: string[] }>
  lockRecord: Call<[path: string], { fd: number; text: string }>
  writeRecord: Call<[fd: number, text: string], void>
  releaseRecord: Call<[fd: number, path: string], void>
  /** Until the descriptor is closed. */
  lockFile: Call<[fd: number, exclusive: boolean], void>
  takeLease: Call<[fd: number, exclusive: boolean], void>
  /** Whether nobody has broken it. */
  endLease: Call<[fd: number, exclusive: boolean], boolean>
  /** Whether a lease is still whole: false when somebody waits to open the file. */
  hasLease: Call<[fd: number, exclusive: boolean], boolean>
  setImmutable: Call<[fd: number, immutable: boolean], void>
  /** That btrfs writes the file, which is empty, in place. */
  setInPlace: Call<[fd: number, inPlace: boolean], void>
  /** The owner, and the low 12 bits of the mode. */
  setAccess: Call<[fd: number, uid: number, mode: number], void>
  setPinned: Call<[fd: number, pinned: boolean], void>
  getPinCount: Call<[fd: number], number>
  /** To the head of a file that is open for writing; see native/swap_file.h. */
  writeSwapHeader: Call<[fd: number], void>
  /** The UUID in such a header, in hexadecimal digits; undefined where the file has none. */
  readSwapHeader: Call<[fd: number], string | undefined>
  swapOn: Call<[fd: number], void>
  swapOff: Call<[fd: number], void>
  /** Whether the pages of shared memory with a name, which are made, are out of memory. */
  swapOutPages: Call<[name: string], boolean>
  removeSwappedPages: Call<[name: string], void>
  setMark: Call<[fd: number, mark: string], void>
  removeMark: Call<[fd: number], void>
  /**
   * The first byte at which an open file and an open device differ; -1 when there is none. Three numbers a
   * run of bytes: offset on the device, offset in the file, length.
   */
  findDifference: Call<[device: number, path: string, file: number, runs: Float64Array], number>
  /**
   * Drops the cached pages of an open file. Returns the first byte of a page that stays; -1 when there is
   * none.
   */
  findCachedByte: Call<[fd: number], number>
  /** The same for the first byte at which a page that stays differs from what a direct read returns. */
  findStaleByte: Call<[fd: number], number>
  /** Reclaims ranges of a process's memory. Two numbers a range: the first address, and bytes. */
  pageOut: Call<[pid: number, ranges: Float64Array], void>
  /** Of a multiple of 4096 bytes: `bytes` is the memory. */
  newWriteBuffer: (size: number) => { buffer: WriteBuffer; bytes: Uint8Array }
  /** Whether what is written bypasses the page cache; EINVAL where the filesystem has no direct I/O. */
  setDirect: Call<[fd: number, direct: boolean], void>
  /** fallocate(2); `mode` is of FALLOCATE. */
  allocate: Call<[fd: number, mode: number, offset: number, length: number], void>
  truncate: Call<[fd: number, size: number], void>
  write: Call<[fd: number, buffer: WriteBuffer, length: number, offset: number], void>
  /** Into memory that direct I/O takes; `length` is a multiple of 4096. Fewer bytes where the file ends. */
  read: Call<[fd: number, length: number, offset: number], Buffer>
  writeZeros: Call<[fd: number, offset: number, length: number], void>
  /** Without `replace`, EEXIST where there is a file with the new name. */
  rename: Call<[from: string, to: string, replace: boolean], void>
  makeBlockNode: Call<[path: string, major: number, minor: number], void>
  /** The segments of file parts, end to end. `devices` lists the devices at the bottom that are in use. */
  buildSegments: Call<
    [parts: FilePart[]],
    { segments: SegmentSource; count: number; devices: number[] }
  >
  /** Four numbers a segment; see `lib/segments.ts`. */
  segmentRows: (segments: SegmentSource) => Float64Array
  /**
   * The first sector whose block the other table has as well; -1 when the two share none. `numbers` are those
   * of the other's devices among the first's. Takes memory for each segment of the other.
   */
  findOverlap: Call<
    [
      segments: SegmentSource | Float64Array,
      other: SegmentSource | Float64Array,
      numbers: number[],
    ],
    number
  >
  /** The first sector at which the tables differ; -1 when they are the same. */
  findDifferentSector: Call<[segments: SegmentSource | Float64Array, other: Layer], number>
  dmVersion: Call<[], string>
  dmCreate: Call<[name: string, uuid: string], DmDevice>
  dmLoad: Call<
    [
      target: DmTarget,
      segments: SegmentSource | Float64Array,
      devices: string[],
      readOnly: boolean,
    ],
    DmDevice
  >
  /** dmCreate, dmLoad and dmResume; when one fails, the device is removed again. */
  dmMake: Call<
    [
      name: string,
      uuid: string,
      segments: SegmentSource | Float64Array,
      devices: string[],
      readOnly: boolean,
      cookie: number,
    ],
    DmDevice
  >
  dmResume: Call<[target: DmTarget, cookie: number], DmDevice>
  dmClear: Call<[target: DmTarget], DmDevice>
  dmStatus: Call<[target: DmTarget], DmDevice>
  dmRemove: Call<[target: DmTarget, deferred: boolean, cookie: number], DmDevice>
  dmTable: Call<[target: DmTarget, inactive: boolean], DmTable>
  /** The live tables of a device ("major:minor") and of all underlying device-mapper devices. */
  dmStack: Call<[device: string], DmTable[]>
  dmList: Call<[], DmDevice[]>
  loopGetFree: Call<[], number>
  loopConfigure: Call<[path: string, fd: number, settings: LoopSettings], void>
  loopStatus: Call<[number: number], LoopStatus>
  /** All devices with a backing file. */
  loopList: Call<[], LoopStatus[]>
  loopResize: Call<[path: string, name: string, size: number], void>
  loopClear: Call<[path: string, name: string, deferred: boolean], 'removed' | 'deferred' | 'busy'>
  /** undefined where there is no socket; `uid` is its owner, `bound` whether a process has it. */
  probeSocket: Call<[path: string], { uid: number; bound: boolean } | undefined>
  /** `base` is the part of its key that goes through the kernel. */
  createCookie: Call<[], { handle: Cookie; base: number }>
  /** How many cookies of dead processes it has removed. */
  sweepCookies: Call<[], number>
  pendingEvents: Call<[cookie: Cookie], number>
  destroyCookie: Call<[cookie: Cookie], void>
}

function load(): Addon {
  try {
    return loadAddon() as Addon
  } catch (error) {
    throw new Error(
      `dmloop's native addon could not be loaded for ${process.platform} ${process.arch}, ` +
        `Node ${process.version}. Build it again with: npm rebuild dmloop`,
      { cause: error },
    )
  }
}

export const native = collecting(load())

/** A native call that has not returned. */
export interface KernelCall {
  number: number | undefined
  path: string | undefined
  /** Milliseconds that it may take in addition to its caller's timeout. */
  allowance: number
}

/** The calls that the current operation waits for; see deadline.ts. */
export const kernelCalls = new AsyncLocalStorage<Set<KernelCall>>()

/** Resolves to the value of a native call, or rejects with its failure as a system error about `path`. */
export async function result<T>(pending: Pending<T>, path?: string, allowance = 0): Promise<T> {
  const calls = kernelCalls.getStore()
  const call = { number: pending.call, path, allowance }
  calls?.add(call)
  try {
    return await computed(pending, path)
  } finally {
    calls?.delete(call)
  }
}

/** The same for a native call that makes no system call: it ends, however long it takes. */
export async function computed<T>(pending: Pending<T>, path?: string): Promise<T> {
  const settled = await pending
  if ('failure' in settled) throw systemError(settled.failure, settled.failure.path ?? path)
  return settled.value
}
