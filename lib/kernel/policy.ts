// What is refused, and why: the one table for the code, the tests and docs/refusals.md.

/** What makes the device: a device-mapper table of the file's own blocks, or a loop device. */
export type Backend = 'linear' | 'loop'

interface Rule {
  /** What was found, as a sentence about the file goes on after its name. */
  found: string
  /** What would go wrong if it were mapped all the same. */
  why: string
  /** What a person can do. */
  remedy: string
  /** Which backends it rules out. */
  blocks: 'linear' | 'all'
}

export const POLICY = {
  DMLOOP_NOT_REGULAR_FILE: {
    found: 'is not a regular file',
    why: 'Only a regular file has blocks of its own on a disk.',
    remedy: 'Name a regular file.',
    blocks: 'all',
  },
  DMLOOP_EMPTY_FILE: {
    found: 'is smaller than one logical block',
    why: 'A block device is at least one logical block long.',
    remedy: 'Write the file first, or make it longer.',
    blocks: 'all',
  },
  DMLOOP_UNALIGNED: {
    found: 'offset and length are not multiples of the logical block size',
    why: 'A device is addressed in whole logical blocks.',
    remedy: 'Give an offset and a length that are multiples of the logical block size.',
    blocks: 'all',
  },
  DMLOOP_OUT_OF_RANGE: {
    found: 'the range asked for reaches past the end of the file',
    why: 'Blocks beyond the end of the file belong to others.',
    remedy: 'Ask for a range within the file.',
    blocks: 'all',
  },
  DMLOOP_TOO_LARGE: {
    found: 'reaches beyond 9,007,199,254,740,991 bytes (8 PiB)',
    why: 'JavaScript rounds larger numbers, and a rounded address is that of other blocks.',
    remedy: 'Keep it in a file, and on a device, of less than 8 PiB.',
    blocks: 'all',
  },
  DMLOOP_UNSUPPORTED_FILESYSTEM: {
    found: 'is stored on a filesystem whose block addresses are not known to be true',
    why: 'FIEMAP may give addresses that are not positions on the disk, or blocks that move.',
    remedy: 'Keep the file on ext2, ext3, ext4, xfs, f2fs, btrfs or vfat.',
    blocks: 'linear',
  },
  DMLOOP_ENCRYPTED: {
    found: 'is encrypted by its filesystem',
    why: 'The blocks hold ciphertext.',
    remedy: 'Copy it to a directory without an encryption policy (fscrypt).',
    blocks: 'linear',
  },
  DMLOOP_REALTIME_FILE: {
    found: 'is stored on the realtime device of its xfs',
    why: 'Its addresses count on another device than the filesystem reports.',
    remedy: 'Copy it to a directory without the rtinherit flag.',
    blocks: 'linear',
  },
  DMLOOP_DATA_JOURNALED: {
    found: 'has its data written through the journal',
    why: 'The journal may write old data over the mapped blocks later.',
    remedy: 'Mount without data=journal and remove the file attribute: chattr -j FILE.',
    blocks: 'linear',
  },
  DMLOOP_ENCODED_EXTENT: {
    found: 'is compressed or otherwise encoded on the disk',
    why: 'The blocks hold something else than the file’s bytes.',
    remedy: 'Rewrite the file without compression.',
    blocks: 'linear',
  },
  DMLOOP_INLINE_DATA: {
    found: 'has its data inside the inode',
    why: 'The data shares its block with metadata of the filesystem.',
    remedy: 'Move the data out of the inode: provisionFile().',
    blocks: 'linear',
  },
  DMLOOP_UNALLOCATED_EXTENT: {
    found: 'has data that has no place on the disk yet',
    why: 'There is no address to map.',
    remedy: 'Sync the file first (mapFile does): sync FILE.',
    blocks: 'linear',
  },
  DMLOOP_UNALIGNED_EXTENT: {
    found: 'has an extent that does not start and end on a logical block',
    why: 'A table addresses whole logical blocks.',
    remedy: 'Keep the file on a filesystem whose block size is a multiple of the disk’s.',
    blocks: 'linear',
  },
  DMLOOP_SHARED_EXTENT: {
    found: 'shares blocks with another file (reflink, snapshot or dedupe)',
    why: 'A write through the device would change the other file too.',
    remedy:
      'Give it blocks of its own: provisionFile() on xfs; or make a copy, cp --reflink=never FILE COPY.',
    blocks: 'linear',
  },
  DMLOOP_REPLICATED_EXTENT: {
    found: 'is stored by btrfs in several copies or stripes',
    why: 'A write through the device would reach one copy alone.',
    remedy: 'Have btrfs keep data once: btrfs balance start -dconvert=single MOUNT-POINT.',
    blocks: 'linear',
  },
  DMLOOP_COPY_ON_WRITE: {
    found: 'is written to other blocks whenever it changes (copy on write)',
    why: 'btrfs also keeps checksums of such blocks, and moves them as it likes.',
    remedy: 'Make the image with createImage() and guard: ‘swapfile’, and map it with the same.',
    blocks: 'linear',
  },
  DMLOOP_UNWRITTEN_EXTENT: {
    found: 'has a range that was allocated but never written',
    why: 'It reads as zeros through the file and as old disk contents through the device.',
    remedy: 'Write zeros there: provisionFile(); or map read-only with holes: ‘zero’.',
    blocks: 'linear',
  },
  DMLOOP_HOLE: {
    found: 'has a hole',
    why: 'There is no block to map.',
    remedy: 'Fill it with zeros: provisionFile(); or map read-only with holes: ‘zero’.',
    blocks: 'linear',
  },
  DMLOOP_READ_ONLY: {
    found: 'is stored on a filesystem or a device that is read-only',
    why: 'The device would write to what is read-only for everybody else.',
    remedy: 'Map with readOnly: true.',
    blocks: 'all',
  },
  DMLOOP_DEVICE_CLAIMED: {
    found: 'is stored on a filesystem that has its disk to itself',
    why: 'The kernel lets only one user open a disk exclusively: the filesystem has it, so device-mapper gets EBUSY.',
    remedy:
      'Keep the file on a filesystem on LVM, or on one that is mounted through wrapDevice(); or map it with backend: ‘auto’.',
    blocks: 'linear',
  },
  DMLOOP_OPAQUE_DEVICE: {
    found: 'is stored on a device that does more than translate addresses',
    why: 'I/O on the underlying device would bypass what it does: encrypt, share, copy or check.',
    remedy:
      'Add a linear layer on top of it, such as a logical volume; or map with backend: ‘auto’.',
    blocks: 'linear',
  },
  DMLOOP_DEVICE_BUSY: {
    found: 'is stored on a device that is about to change',
    why: 'The blocks at its addresses may be moved at any moment.',
    remedy:
      'Wait until it is done, or end it (pvmove --abort, dmsetup resume, dmsetup clear); or map with backend: ‘auto’.',
    blocks: 'linear',
  },
  DMLOOP_TOO_MANY_SEGMENTS: {
    found: 'is in more pieces than a device-mapper table may have (1,048,576)',
    why: 'The kernel refuses a larger table.',
    remedy: 'Defragment the file, or copy it in one go to a filesystem with room.',
    blocks: 'linear',
  },
  DMLOOP_SWAPFILE: {
    found: 'is in use as swap space',
    why: 'The kernel writes pages to its blocks whenever memory is short.',
    remedy: 'Take it out of use first: swapoff FILE.',
    blocks: 'all',
  },
  DMLOOP_FILESYSTEM_FILE: {
    found: 'is used by its filesystem itself: the journal, a quota file or the like',
    why: 'The kernel reads and writes its blocks, and neither a lease nor a flag prevents that.',
    remedy: 'Map a copy of it, or take it out of use first: tune2fs -O ^has_journal, quotaoff.',
    blocks: 'all',
  },
  DMLOOP_NO_DEVICE_MAPPER: {
    found: 'device-mapper cannot be reached',
    why: 'The kernel’s device-mapper makes the device.',
    remedy: 'Run as root, on a kernel with device-mapper: modprobe dm_mod.',
    blocks: 'linear',
  },
  DMLOOP_FILE_IN_USE: {
    found: 'is open for writing',
    why: 'A writer may truncate it or give it other blocks while it is mapped.',
    remedy: 'Have the processes that are named close it.',
    blocks: 'linear',
  },
  DMLOOP_UNGUARDABLE: {
    found: 'cannot be guarded',
    why: 'Without the immutable flag anyone may truncate, delete or move it while it is mapped.',
    remedy: 'Map with guard: ‘none’ if you make sure yourself that nobody touches the file.',
    blocks: 'linear',
  },
  DMLOOP_UNFENCED: {
    found: 'cannot be fenced off: its filesystem is not mounted on a wrapper',
    why: 'Only a device under the filesystem can refuse its requests.',
    remedy:
      'Make a wrapper with wrapDevice() and mount the filesystem on that, or map without a fence. Where a fence is gone, unmap and map again.',
    blocks: 'linear',
  },
  DMLOOP_NOT_PINNED: {
    found: 'is not pinned',
    why: 'f2fs moves the blocks of a file as it cleans up, unless the file is pinned; and whoever can open it can unpin it.',
    remedy:
      'Map with guard: ‘immutable’ a file that is not immutable yet (chattr -i FILE), on an f2fs without mode=lfs; with ‘none’, pin it and let only root open it (chown root, chmod 600).',
    blocks: 'linear',
  },
  DMLOOP_CONTENT_MISMATCH: {
    found: 'differs from what the device reads',
    why: 'The filesystem or an underlying device reported addresses that are not the file’s.',
    remedy: 'Do not write to the device; check the devices under the filesystem.',
    blocks: 'linear',
  },
  DMLOOP_ALREADY_MAPPED: {
    found: 'is mapped already',
    why: 'Two devices over the same blocks would not see each other’s writes.',
    remedy: 'Use the existing device (openMapping), or unmap or detach it first.',
    blocks: 'all',
  },
  DMLOOP_NAME_INVALID: {
    found: 'is not a name for a device',
    why: 'The kernel takes names under 128 bytes, and udev encodes all but some characters.',
    remedy: 'Use 1 to 127 letters, digits and #+-.:=@_, and not “.”, “..” or “control”.',
    blocks: 'all',
  },
  DMLOOP_NAME_TAKEN: {
    found: 'is the name of another device',
    why: 'Names of device-mapper devices are unique.',
    remedy: 'Choose another name with the option `name`.',
    blocks: 'all',
  },
  DMLOOP_FILE_CHANGED: {
    found: 'has other blocks than the device maps',
    why: 'Writes through the device go to blocks that are no longer the file’s.',
    remedy: 'Stop writing to the device, unmap it, and map the file again.',
    blocks: 'all',
  },
  DMLOOP_STILL_OPEN: {
    found: 'the device is still open',
    why: 'The kernel removes a device only when nobody has it open.',
    remedy: 'Unmount and close it first, or unmap with { deferred: true }.',
    blocks: 'all',
  },
  DMLOOP_FILE_UNREACHABLE: {
    found: 'cannot be released, because its filesystem is not mounted',
    why: 'Until then it keeps the guard of a mapping that is gone.',
    remedy:
      'Mount its filesystem, then call unmap() again or releaseFile(); mapping the file again also releases it.',
    blocks: 'all',
  },
  DMLOOP_NOT_MAPPED: {
    found: 'is not mapped',
    why: 'There is no device.',
    remedy: 'Map it first: mapFile(); listMappings() tells what is mapped.',
    blocks: 'all',
  },
  DMLOOP_STALE_CACHE: {
    found: 'has pages in memory that are older than the disk',
    why: 'Reads of the file return them, and a small write to the file writes whole pages back over the device’s writes.',
    remedy:
      'Have the processes that are named unmap or close the file, then call unmap() or releaseFile() again.',
    blocks: 'all',
  },
  DMLOOP_BAD_PARTITION: {
    found: 'has a partition that there can be no device for',
    why: 'A device reaches no further than its disk, and starts and ends on a logical block.',
    remedy:
      'Repair the partition table, unless the file was cut off; the other partitions can be used all the same.',
    blocks: 'all',
  },
  DMLOOP_NO_TOOL: {
    found: 'a program that is needed is not installed',
    why: 'Partition tables are read by util-linux, as everywhere else.',
    remedy: 'Install its package, or map without `partitions`.',
    blocks: 'all',
  },
  DMLOOP_NO_SPACE: {
    found: 'does not fit on its filesystem',
    why: 'Every block must be allocated before it can be mapped.',
    remedy: 'Free some space there, or use a filesystem with more.',
    blocks: 'all',
  },
  DMLOOP_BAD_IMAGE: {
    found: 'is not a whole image',
    why: 'What was made of it would not be what its author meant.',
    remedy: 'Get the image again, and compare its checksum.',
    blocks: 'all',
  },
  DMLOOP_NOT_REPRESENTABLE: {
    found: 'cannot be written as logical partition metadata',
    why: 'Android’s format has limits: names of 36 bytes, a size of its tables, groups that may be full.',
    remedy: 'Use shorter names, and files in fewer extents.',
    blocks: 'all',
  },
  DMLOOP_CHECKSUM_MISMATCH: {
    found: 'has another SHA-256 than expected',
    why: 'It is not the content that was asked for.',
    remedy: 'Get the image again; the checksum must be that of the unpacked content.',
    blocks: 'all',
  },
  DMLOOP_IMAGE_EXISTS: {
    found: 'exists already',
    why: 'Its content would be lost.',
    remedy: 'Choose another name, or replace it with overwrite: true.',
    blocks: 'all',
  },
  DMLOOP_NO_SUCH_IMAGE: {
    found: 'is not an image of the store',
    why: 'Nothing is recorded under its name.',
    remedy: 'List the images that the store has, or make it first.',
    blocks: 'all',
  },
  DMLOOP_IMAGE_IN_USE: {
    found: 'is an image in use',
    why: 'Its blocks are those of a device, or are recorded to be mapped at the next start of the machine.',
    remedy:
      'Unmap it first. Delete an image through its store; if that is lost, clear the flag and the mark: chattr -i FILE; setfattr -x trusted.dmloop FILE.',
    blocks: 'all',
  },
  DMLOOP_BAD_METADATA: {
    found: 'has metadata that this version cannot use',
    why: 'They are damaged, or were written by another version, and are left as they are.',
    remedy: 'Use the version of dmloop that wrote them, or restore them from a backup.',
    blocks: 'all',
  },
  DMLOOP_DISK_MISSING: {
    found: 'is stored on a disk that is not there',
    why: 'Its table is for that disk, found by what does not change, and of the same size.',
    remedy: 'Attach the disk. If there are two with the same UUID, detach the copy.',
    blocks: 'all',
  },
  DMLOOP_TIMEOUT: {
    found: 'did not happen in time',
    why: 'Another process, udev or the kernel is slow or stuck.',
    remedy: 'Try again, with a larger `timeout` if the machine is slow.',
    blocks: 'all',
  },
} as const satisfies Record<string, Rule>

export type DmloopCode = keyof typeof POLICY

/** Extent flags (linux/fiemap.h) and the verdict on each; the first that is set counts. */
export const EXTENT_FLAGS = {
  DATA_ENCRYPTED: { bit: 0x80, code: 'DMLOOP_ENCRYPTED' },
  DATA_INLINE: { bit: 0x200, code: 'DMLOOP_INLINE_DATA' },
  DATA_TAIL: { bit: 0x400, code: 'DMLOOP_INLINE_DATA' },
  DELALLOC: { bit: 0x4, code: 'DMLOOP_UNALLOCATED_EXTENT' },
  UNKNOWN: { bit: 0x2, code: 'DMLOOP_UNALLOCATED_EXTENT' },
  ENCODED: { bit: 0x8, code: 'DMLOOP_ENCODED_EXTENT' },
  NOT_ALIGNED: { bit: 0x100, code: 'DMLOOP_UNALIGNED_EXTENT' },
  SHARED: { bit: 0x2000, code: 'DMLOOP_SHARED_EXTENT' },
  UNWRITTEN: { bit: 0x800, code: 'DMLOOP_UNWRITTEN_EXTENT' },
  // None of FIEMAP's: kNotSingle of native/extent_walk.h.
  NOT_SINGLE: { bit: 0x40000000, code: 'DMLOOP_REPLICATED_EXTENT' },
} as const satisfies Record<string, { bit: number; code: DmloopCode }>

/** LAST and MERGED describe the answer, not the blocks. */
export const HARMLESS_EXTENT_FLAGS = 0x1 | 0x1000

interface FileAttribute {
  from: 'attributes' | 'inodeFlags' | 'extendedFlags'
  bit: number
  code: DmloopCode
  /** In the place of the rule's own words. */
  found?: string
}

/** FS_XFLAG_REALTIME (linux/fs.h). */
export const REALTIME = 0x1

/** Attributes of a whole file, by the call that reports them. */
export const FILE_ATTRIBUTES: readonly FileAttribute[] = [
  // STATX_ATTR_* (statx(2), linux/stat.h)
  { from: 'attributes', bit: 0x4, code: 'DMLOOP_ENCODED_EXTENT' },
  { from: 'attributes', bit: 0x800, code: 'DMLOOP_ENCRYPTED' },
  {
    from: 'attributes',
    bit: 0x100000,
    code: 'DMLOOP_READ_ONLY',
    found: 'is protected by fs-verity, and a write to its blocks would break it',
  },
  {
    from: 'attributes',
    bit: 0x200000,
    code: 'DMLOOP_UNSUPPORTED_FILESYSTEM',
    found: 'is accessed past the block layer (DAX), which was never proven to be coherent with it',
  },
  // FS_INLINE_DATA_FL (linux/fs.h). Pinning the file on f2fs would move the data out of the inode.
  { from: 'inodeFlags', bit: 0x10000000, code: 'DMLOOP_INLINE_DATA' },
  // FS_JOURNAL_DATA_FL (linux/fs.h)
  { from: 'inodeFlags', bit: 0x4000, code: 'DMLOOP_DATA_JOURNALED' },
  { from: 'extendedFlags', bit: REALTIME, code: 'DMLOOP_REALTIME_FILE' },
]

/**
 * FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NOCOW_FL (linux/fs.h): a file of btrfs that is written in place; f2fs reports the
 * last for a pinned file.
 */
export const INODE_FLAGS = {
  immutable: 0x10,
  appendOnly: 0x20,
  pinned: 0x800000,
  inPlace: 0x800000,
} as const

/**
 * How a filesystem reports the addresses of a file: by FS_IOC_FIEMAP, block by block by FIBMAP, or by FS_IOC_FIEMAP
 * in a space of its own, which chunks map to its device; see native/extent_walk.h.
 */
export type AddressCall = 'FIEMAP' | 'FIBMAP' | 'CHUNKS'

/** What keeps a file's blocks in place while it is mapped; see `PlanOptions.guard`. */
export type Guard = 'immutable' | 'swapfile' | 'none'

/**
 * What protects a file: FS_IMMUTABLE_FL against everybody else, f2fs's pin against its own cleaning, that only
 * root can open the file against everybody who could unpin it, and the kernel itself where the file is swap space.
 */
export type Protection = 'immutable' | 'pinned' | 'private' | 'swap'

/** A filesystem whose addresses were proven to be positions on its device. */
export interface KnownFilesystem {
  addresses: AddressCall
  /** What each guard needs there; a guard that is missing can protect no file there. */
  guards: Readonly<Partial<Record<Guard, readonly Protection[]>>>
  /** The most bytes of a file, in whole MiB, where that is less than anybody has. */
  largestFile?: number
  /** The flag of a file that is written in place; undefined where every file is. */
  inPlace?: number
  /** Whether what is written there goes through the page cache. */
  buffered?: boolean
}

/** Until the file is immutable, only root may open it: swapon(2) needs it to be neither immutable nor leased. */
const SWAP_FILE = ['private', 'swap', 'immutable'] as const

const IMMUTABLE_FLAG: KnownFilesystem = {
  addresses: 'FIEMAP',
  guards: { immutable: ['immutable'], swapfile: SWAP_FILE, none: [] },
}

/** Filesystems that files may be mapped on; every other is refused by its name. */
export const FILESYSTEMS: Readonly<Record<string, KnownFilesystem | undefined>> = {
  ext2: IMMUTABLE_FLAG,
  ext3: IMMUTABLE_FLAG,
  ext4: IMMUTABLE_FLAG,
  xfs: IMMUTABLE_FLAG,
  f2fs: {
    addresses: 'FIEMAP',
    guards: {
      immutable: ['private', 'immutable', 'pinned'],
      // A swap file is pinned by the kernel (f2fs_swap_activate, fs/f2fs/data.c).
      swapfile: SWAP_FILE,
      // The caller stands in for the immutable flag, but not for what only f2fs itself can do.
      none: ['private', 'pinned'],
    },
  },
  // FAT_MAX_FILE_SIZE (fs/fat/fat.h): 4 GiB less one byte.
  vfat: {
    addresses: 'FIBMAP',
    guards: { swapfile: ['swap'], none: [] },
    largestFile: 4095 * 2 ** 20,
  },
  // Balance, and whoever makes a snapshot, take no notice of an immutable flag; of a swap file they do.
  btrfs: {
    addresses: 'CHUNKS',
    guards: { swapfile: SWAP_FILE },
    inPlace: INODE_FLAGS.inPlace,
    // Of a direct write to allocated space, Linux 6.1 has left as never written what came before memory that was not
    // there yet: seen with memory that was all zeros.
    buffered: true,
  },
}
