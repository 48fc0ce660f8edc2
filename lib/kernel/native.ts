// The native half, typed. It reports facts and failures; the errors are made here, on the caller's
// stack.
import { AsyncLocalStorage } from 'node:async_hooks'
import bindings from 'bindings'
import { systemError } from './errors.js'
import type { AddressCall } from './policy.js'

declare const kept: unique symbol

/** A udev cookie, which is destroyed with its last handle at the latest; see native/udev_cookie.h. */
export interface Cookie {
  readonly [kept]: 'cookie'
}

/** Extents that C++ keeps, in a few bytes each. */
export interface ExtentList {
  readonly [kept]: 'extents'
}

/** Segments that C++ works out each time they are asked for. */
export interface Layout {
  readonly [kept]: 'segments'
}

/** Ranges of a file that have something in common: how many there are, and the first of them, in bytes. */
export interface Ranges {
  count: number
  offset: number
  length: number
}

/** What FIEMAP says of a range of a file. */
export interface ExtentFacts {
  extents: ExtentList
  count: number
  /** What no extent covers. */
  holes: Ranges
  /** Extents that do not start or end, in the file or on the disk, at a whole logical block. */
  unaligned: Ranges
  /** The extents that have flags (FIEMAP_EXTENT_* of linux/fiemap.h), by all the flags that they have. */
  flagged: (Ranges & { flags: number })[]
}

/** A part of a file, and the devices beneath it. */
export interface FilePart {
  extents: ExtentList
  /** The byte of the file that the part starts with. */
  offset: number
  sectors: number
  /** Extents with one of these flags become zeros, as do holes. */
  zeroFlags: number
  /** Level by level; the numbers of the last level's devices are those of the result. */
  levels: Layer[][]
}

/** Bytes, as the kernel says: a bigint where a number would be rounded. */
type ExactSize = number | bigint

/** What the kernel says of an open file; see native/file_facts.h. */
export interface FileFacts {
  mode: number
  uid: number
  links: number
  size: ExactSize
  inode: string
  major: number
  minor: number
  attributes: number
  filesystemMagic: number
  /** The mount that the file is seen through takes no writes; the filesystem may. */
  mountReadOnly: boolean
  /** Bytes that the filesystem counts as its own, on all its devices. */
  filesystemSize: ExactSize
  inodeFlags: number
  extendedFlags: number
  /** What its filesystem knows it by, in hexadecimal digits; undefined where there is none. */
  handle: string | undefined
  /** What a guard has noted in it. */
  mark: string | undefined
}

/** All that is to be known of a file before its extents are asked for; see native/look.h. */
export interface Look {
  facts: FileFacts
  kernelName: string | undefined
  /** Bytes. */
  blockSize: number
  deviceSize: ExactSize
  mounts: string
  ext4Options: string
  swaps: string
  /** What the kernel uses itself, as far as this process may ask: the journal and such, by inode. */
  filesystemFiles: { role: string; inode: string }[]
  loops: LoopStatus[]
}

export interface OpenedFile {
  fd: number
  /** Without symbolic links. */
  path: string
  look: Look
}

/** How a loop device shows a file; bytes. */
export interface LoopSettings {
  offset: number
  /** The device's. */
  size: number
  blockSize: number
  readOnly: boolean
  directIo: boolean
  partitionScan: boolean
  /** Kept by the driver: up to 63 bytes. */
  name: string
}

/** What a loop device shows: a file's device and inode, and how. */
export interface LoopStatus {
  /** N of /dev/loopN. */
  number: number
  /** The device's own number. It is not 7:N where the driver keeps room for partitions (max_part). */
  device: { major: number; minor: number }
  major: number
  minor: number
  inode: string
  /** The device whose node the file is; 0:0 for a file that is none. */
  shown: { major: number; minor: number }
  offset: number
  size: number
  /** LO_FLAGS_* of linux/loop.h, as the driver has them. */
  flags: number
  name: string
}

/** A device-mapper device as an ioctl on it answers. */
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

/** A table that the kernel holds; segments in 512-byte sectors. */
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

/** How an ioctl finds its device. */
export type DmTarget = { name: string } | { uuid: string } | { major: number; minor: number }

/** The table of a device on one level: its device `n` is number `devices[n]` of the level below. */
export interface Layer {
  rows: Float64Array
  devices: number[]
  stripes?: Float64Array
}

type Settled<T> = { value: T } | { failure: { errno: number; syscall: string; path?: string } }
/** With the number of the call. */
type Pending<T> = Promise<Settled<T>> & { readonly call?: number }
type Call<A extends unknown[], T> = (...args: A) => Pending<T>

/** What a path leads to. */
export interface PathFacts {
  isBlockDevice: boolean
  /** The device of its filesystem, and the place there. */
  fsMajor: number
  fsMinor: number
  inode: string
  /** Those of a device itself. */
  major: number
  minor: number
}

interface Addon {
  /**
   * What the kernel was last asked for by a call, and how often it has been asked; undefined when the call has
   * been settled.
   */
  callProgress: (call: number) => { syscall?: string; steps: number } | undefined
  walkExtents: Call<
    [fd: number, call: AddressCall, offset: number, length: number, blockSize: number],
    ExtentFacts
  >
  /** The first byte that lies elsewhere than in an earlier walk; -1 when there is none. */
  findMovedByte: Call<
    [fd: number, call: AddressCall, offset: number, length: number, extents: ExtentList],
    number
  >
  /** Extents that no walk has found, four numbers each. */
  packExtents: (rows: Float64Array) => ExtentList
  /** Some of the extents, four numbers each: logical, physical, length, flags. */
  extentRows: (extents: ExtentList, first: number, count: number) => Float64Array
  /** Without a descriptor (-1) when it is no regular file. */
  openFile: Call<[path: string], OpenedFile>
  /** By way of any mount of the filesystem with that device; see native/look.h. */
  openFileByHandle: Call<[major: number, minor: number, handle: string], OpenedFile>
  /** The mounts of filesystems with a device, in every mount namespace. */
  listMounts: Call<[], { major: number; minor: number; filesystem: string }[]>
  open: Call<[path: string, flags: number], number>
  identify: Call<[path: string], PathFacts>
  lookAt: Call<[fd: number], Look>
  inspect: Call<[fd: number], FileFacts>
  sync: Call<[fd: number], void>
  close: Call<[fd: number], void>
  /** The text of the first of some files that there is. */
  readFirst: Call<[paths: string[]], string | undefined>
  /** The files of a folder whose names end so; none when there is no folder. */
  readFolder: Call<[path: string, suffix: string], { name: string; text: string }[]>
  lockRecord: Call<[path: string], { fd: number; text: string }>
  writeRecord: Call<[fd: number, text: string], void>
  releaseRecord: Call<[fd: number, path: string], void>
  /** Until the descriptor is closed. */
  lockFile: Call<[fd: number], void>
  takeLease: Call<[fd: number, exclusive: boolean], void>
  /** Whether it was still whole. */
  endLease: Call<[fd: number, exclusive: boolean], boolean>
  setImmutable: Call<[fd: number, immutable: boolean], void>
  /** The owner, and the low 12 bits of the mode. */
  setAccess: Call<[fd: number, uid: number, mode: number], void>
  setPinned: Call<[fd: number, pinned: boolean], void>
  getPinCount: Call<[fd: number], number>
  setMark: Call<[fd: number, mark: string], void>
  removeMark: Call<[fd: number], void>
  /**
   * The first byte of an open file that an open device shows differently; -1 when there is none. Three
   * numbers a run of bytes: offset on the device, offset in the file, length.
   */
  findDifference: Call<[device: number, path: string, file: number, runs: Float64Array], number>
  /** Drops the cached pages of an open file. The first byte that one left shows otherwise than the disk; -1 when there is none. */
  findStaleByte: Call<[fd: number], number>
  /** Reclaims what a process has mapped. Two numbers a range of its memory: the first address, and bytes. */
  pageOut: Call<[pid: number, ranges: Float64Array], void>
  makeBlockNode: Call<[path: string, major: number, minor: number], void>
  /** Files laid end to end on the devices at the bottom, of which those in use are listed. */
  layOut: Call<[parts: FilePart[]], { segments: Layout; count: number; devices: number[] }>
  /** Four numbers a segment; see `lib/segments.ts`. */
  segmentRows: (segments: Layout) => Float64Array
  /** The first sector that lies where the other table lies too; -1 when the two share nothing. */
  findOverlap: Call<[segments: Layout | Float64Array, other: Layer], number>
  /** The first sector from which the tables are not the same; -1 when they are. */
  findDifferentSector: Call<[segments: Layout | Float64Array, other: Layer], number>
  dmVersion: Call<[], string>
  dmCreate: Call<[name: string, uuid: string], DmDevice>
  dmLoad: Call<
    [target: DmTarget, segments: Layout | Float64Array, devices: string[], readOnly: boolean],
    DmDevice
  >
  dmResume: Call<[target: DmTarget, cookie: number], DmDevice>
  dmSuspend: Call<[target: DmTarget], DmDevice>
  dmClear: Call<[target: DmTarget], DmDevice>
  dmStatus: Call<[target: DmTarget], DmDevice>
  dmRemove: Call<[target: DmTarget, deferred: boolean, cookie: number], DmDevice>
  dmTable: Call<[target: DmTarget, inactive: boolean], DmTable>
  /** The live tables of a device ("major:minor") and of all beneath it, as far as they are device-mapper's. */
  dmStack: Call<[device: string], DmTable[]>
  dmDependencies: Call<[target: DmTarget], string[]>
  dmList: Call<[], DmDevice[]>
  loopGetFree: Call<[], number>
  loopConfigure: Call<[path: string, fd: number, settings: LoopSettings], void>
  loopStatus: Call<[number: number], LoopStatus>
  /** Every device that shows something and says what. */
  loopList: Call<[], LoopStatus[]>
  loopResize: Call<[path: string, name: string, size: number], void>
  loopClear: Call<[path: string, name: string, deferred: boolean], 'removed' | 'deferred' | 'busy'>
  /** undefined where there is no socket; `uid` is its owner, `bound` whether a process has it. */
  lookAtSocket: Call<[path: string], { uid: number; bound: boolean } | undefined>
  /** `base` is the part of its key that goes through the kernel. */
  createCookie: Call<[], { handle: Cookie; base: number }>
  /** How many cookies of dead processes it has removed. */
  sweepCookies: Call<[], number>
  pendingEvents: Call<[cookie: Cookie], number>
  destroyCookie: Call<[cookie: Cookie], void>
}

function load(): Addon {
  try {
    return bindings('dmloop') as Addon
  } catch (error) {
    throw new Error(
      `dmloop's native addon could not be loaded for ${process.platform} ${process.arch}, ` +
        `Node ${process.version}. Build it again with: npm rebuild dmloop`,
      { cause: error },
    )
  }
}

export const native = load()

/** A call into the kernel that has not come back. */
export interface KernelCall {
  number: number | undefined
  path: string | undefined
  /** Milliseconds that it may well take, whatever its caller's patience. */
  allowance: number
}

/** The calls that a walk waits for, to whoever watches it; see lib/deadline.ts. */
export const kernelCalls = new AsyncLocalStorage<Set<KernelCall>>()

/** The value of a native call, or its failure as a system error about `path`. */
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

/** The same of a native call that asks the kernel for nothing: it ends, however long it takes. */
export async function computed<T>(pending: Pending<T>, path?: string): Promise<T> {
  const settled = await pending
  if ('failure' in settled) throw systemError(settled.failure, settled.failure.path ?? path)
  return settled.value
}
