// The native half, typed. It reports facts and failures; the errors are made here, on the caller's
// stack.
import bindings from 'bindings'
import { systemError } from './errors.js'
import type { AddressCall } from './policy.js'

/** What FIEMAP says of a range of a file, in bytes. */
export interface ExtentFacts {
  /** Four numbers an extent: logical, physical, length, flags. */
  rows: Float64Array
  /** Two numbers a hole: offset, length. */
  holes: Float64Array
  /** The flags of all extents, or-ed. */
  flags: number
  /** The largest power of two that divides every address and length; 0 when there is no extent. */
  alignment: number
}

/** What the kernel says of an open file; see native/file_facts.h. */
export interface FileFacts {
  mode: number
  size: number
  inode: string
  major: number
  minor: number
  attributes: number
  filesystemMagic: number
  /** Bytes that the filesystem counts as its own, on all its devices. */
  filesystemSize: number
  inodeFlags: number
  extendedFlags: number
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
  major: number
  minor: number
  inode: string
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

type Settled<T> = { value: T } | { failure: { errno: number; syscall: string } }
type Call<A extends unknown[], T> = (...args: A) => Promise<Settled<T>>

interface Addon {
  walkExtents: Call<[fd: number, call: AddressCall, offset: number, length: number], ExtentFacts>
  /** The first byte that lies elsewhere than in an earlier walk's rows; -1 when there is none. */
  findMovedByte: Call<
    [fd: number, call: AddressCall, offset: number, length: number, rows: Float64Array],
    number
  >
  inspect: Call<[fd: number], FileFacts>
  tryLock: Call<[fd: number], void>
  takeLease: Call<[fd: number], void>
  leaseIsWhole: Call<[fd: number], boolean>
  dropLease: Call<[fd: number], void>
  setImmutable: Call<[fd: number, immutable: boolean], void>
  setPinned: Call<[fd: number, pinned: boolean], void>
  getPinCount: Call<[fd: number], number>
  getMark: Call<[fd: number], string | undefined>
  setMark: Call<[fd: number, mark: string], void>
  removeMark: Call<[fd: number], void>
  /** The first byte that differs, from the start of the comparison; -1 when there is none. */
  findDifference: Call<
    [left: number, leftOffset: number, right: number, rightOffset: number, length: number],
    number
  >
  dropCache: Call<[fd: number], void>
  makeBlockNode: Call<[path: string, major: number, minor: number], void>
  /** Extents on the devices at the bottom, numbered as the last level numbers them. */
  layOut: Call<
    [extents: Float64Array, offset: number, sectors: number, zeroFlags: number, levels: Layer[][]],
    { rows: Float64Array; devices: number[] }
  >
  /** The first sector that lies where the other table lies too; -1 when the two share nothing. */
  findOverlap: Call<[segments: Float64Array, other: Layer], number>
  dmVersion: Call<[], string>
  dmCreate: Call<[name: string, uuid: string], DmDevice>
  dmLoad: Call<
    [target: DmTarget, rows: Float64Array, devices: string[], readOnly: boolean],
    DmDevice
  >
  dmResume: Call<[target: DmTarget, cookie: number], DmDevice>
  dmSuspend: Call<[target: DmTarget], DmDevice>
  dmClear: Call<[target: DmTarget], DmDevice>
  dmStatus: Call<[target: DmTarget], DmDevice>
  dmRemove: Call<[target: DmTarget, deferred: boolean, cookie: number], DmDevice>
  dmTable: Call<[target: DmTarget, inactive: boolean], DmTable>
  dmDependencies: Call<[target: DmTarget], string[]>
  dmList: Call<[], DmDevice[]>
  loopGetFree: Call<[], number>
  loopConfigure: Call<[path: string, fd: number, settings: LoopSettings], void>
  loopStatus: Call<[path: string], LoopStatus>
  loopResize: Call<[path: string, name: string, size: number], void>
  loopClear: Call<[path: string, name: string, deferred: boolean], 'removed' | 'deferred' | 'busy'>
  createCookie: Call<[], { semaphore: number; value: number }>
  pendingEvents: Call<[semaphore: number], number>
  destroyCookie: Call<[semaphore: number], void>
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

/** The value of a native call, or its failure as a system error about `path`. */
export async function result<T>(call: Promise<Settled<T>>, path?: string): Promise<T> {
  const settled = await call
  if ('failure' in settled) throw systemError(settled.failure, path)
  return settled.value
}
