// The filesystem that a file is stored on.
import { native, result, type FileProbe } from './native.js'
import { deviceName, mapperUuid, parseDevice, parseMounts } from './sysfs.js'

/** From linux/magic.h and the filesystems' own headers. ext2, ext3 and ext4 share one. */
const MAGIC: Record<number, string> = {
  0xef53: 'ext4',
  0x58465342: 'xfs',
  0xf2f52010: 'f2fs',
  0x4d44: 'vfat',
  0x9123683e: 'btrfs',
  0x01021994: 'tmpfs',
  0x858458f6: 'ramfs',
  0x794c7630: 'overlay',
  0x65735546: 'fuse',
  0x6969: 'nfs',
  0x01021997: '9p',
  0x00c0ffee: 'hostfs',
  0xca451a4e: 'bcachefs',
  0x2fc12fc1: 'zfs',
  0x7366746e: 'ntfs3',
  0x2011bab0: 'exfat',
  0xe0f5e1e2: 'erofs',
  0x73717368: 'squashfs',
  0x9660: 'iso9660',
}

export interface Filesystem {
  /** As /proc/filesystems names it. */
  name: string
  options: string[]
  /** Mounted read-only as a whole: nobody can write to it through any mount. */
  readOnly: boolean
}

/** The filesystem of an open file: from its mount, or from its magic where no mount can be seen. */
export function filesystemOf({ facts, mounts, ext4Options }: FileProbe): Filesystem {
  const { major, minor } = facts.filesystem
  const [mount] = parseMounts(mounts, deviceName(major, minor))
  const byMagic = MAGIC[facts.filesystemMagic] ?? `0x${facts.filesystemMagic.toString(16)}`
  // ext4 omits from mountinfo the options that are defaults of its superblock (tune2fs -o journal_data).
  // Its own file in /proc lists all of them, one a line.
  const hidden = byMagic === 'ext4' ? ext4Options.trim().split('\n') : []
  const options = [...(mount?.options ?? []), ...hidden]
  return { name: mount?.filesystem ?? byMagic, options, readOnly: options.includes('ro') }
}

/** What distinguishes a filesystem from another one that has got its device number. */
export interface FilesystemIds {
  /** The filesystem's own UUID; a copy of the volume has it, too. Empty where the kernel does not tell. */
  uuid: string
  /** The device-mapper UUID of its device, which the kernel gives to one device at a time; or empty. */
  volume: string
}

/** Reads the UUIDs of the mounted filesystem on a device. */
export async function readFilesystemIds(device: string): Promise<FilesystemIds> {
  const { major, minor } = parseDevice(device)
  const read = [result(native.filesystemUuid(major, minor), device), mapperUuid(device)] as const
  const [uuid = '', volume = ''] = await Promise.all(read)
  return { uuid, volume }
}
