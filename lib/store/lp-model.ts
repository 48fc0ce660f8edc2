// Android's logical partition metadata (lp_metadata, the table of a super partition) as an object.
// Its format is AOSP's fs_mgr/liblp/include/liblp/metadata_format.h.

/** Bytes of a sector, whatever the logical block size. */
export const SECTOR = 512

/** On a super partition, or as a file of its own. */
export type LpForm = 'disk' | 'file'

/** What follows the major version, 10: 1 has more attributes, 2 has flags in its header. */
export type LpMinorVersion = 0 | 1 | 2

export interface LpGeometry {
  /** Bytes that one copy of the metadata may have: a multiple of 512 below 4 GiB; in the file form, up to 256 KiB. */
  maxSize: number
  /** Tables that a disk has room for, each with a backup: 1 or more. A file has one table all the same. */
  slotCount: number
  /** Bytes: a multiple of 512. Partitions are made of whole blocks. */
  logicalBlockSize: number
}

/** The geometry that Android gives the files of its dynamic system updates. */
export const LP_FILE_GEOMETRY: LpGeometry = {
  maxSize: 256 << 10,
  slotCount: 1,
  logicalBlockSize: 4096,
}

/** A disk or partition that extents are on. */
export interface LpBlockDevice {
  /** The name of the partition: 1 to 36 letters, digits, `_` and `-`; no other block device has it. */
  name: string
  /** Whether a slot's suffix, `_a` or `_b`, belongs after the name. */
  slotSuffixed: boolean
  /** Bytes: a multiple of 512. */
  size: number
  /** Where partitions may start, in sectors. On the first block device, behind all of lpAreaSize(). */
  firstLogicalSector: number
  /** Bytes, a multiple of 512, that partitions should start at a multiple of; 0: any. */
  alignment: number
  /** Bytes, a multiple of 512, from the start of the block device to what `alignment` counts from. */
  alignmentOffset: number
}

/** Partitions that share a limit. */
export interface LpGroup {
  /** 1 to 36 letters, digits, `_` and `-`; no other group has it. */
  name: string
  /** Whether a slot's suffix belongs after the name. */
  slotSuffixed: boolean
  /** Bytes that its partitions may have on disks together; 0: any number. */
  maximumSize: number
}

export type LpExtent =
  | {
      target: 'linear'
      /** 1 or more. */
      sectors: number
      /** The index of the block device. */
      device: number
      /** The first sector on the block device. */
      start: number
    }
  | {
      /** Reads as zeros. */
      target: 'zero'
      /** 1 or more. */
      sectors: number
    }

/** `updated` (made by an update with snapshots) and `disabled` (not to be mapped) need version 10.1. */
export type LpAttribute = 'read-only' | 'slot-suffixed' | 'updated' | 'disabled'

export interface LpPartition {
  /** 1 to 36 letters, digits, `_` and `-`; no other partition has it. */
  name: string
  /** In the order of the type. */
  attributes: readonly LpAttribute[]
  /** The name of its group. */
  group: string
  /** Laid end to end. No two extents of any partitions share a sector. */
  extents: readonly LpExtent[]
}

export interface LpMetadata {
  /** Left out: the lowest that has what is needed. One that is lower than needed is raised. */
  minorVersion?: LpMinorVersion
  geometry: LpGeometry
  /** The bits of the header's flags, 0 to 2^32 - 1, which only inform; others than 0 need version 10.2. */
  headerFlags: number
  /** The first is the one that the metadata is on. */
  blockDevices: readonly LpBlockDevice[]
  groups: readonly LpGroup[]
  partitions: readonly LpPartition[]
}
