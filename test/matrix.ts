// What can be mapped, and the code that the rest is refused with: test/vm/matrix.ts tries every cell on a
// real kernel, and docs/compatibility.md shows the table (npm run docs; test/tree/docs.test.ts).
import type { DmloopCode, MapOptions } from 'dmloop'

/** What comes of a mapping: the device, or the code that it is refused with. */
export type Cell = 'mapped' | DmloopCode

/** How to make a filesystem on the device $DISK and mount it at $AT; shell. */
export const HOSTS = {
  ext2: 'mkfs.ext2 -q $DISK; mount $DISK $AT',
  ext3: 'mkfs.ext3 -q $DISK; mount $DISK $AT',
  ext4: 'mkfs.ext4 -q $DISK; mount $DISK $AT',
  'ext4 read-only': `mkfs.ext4 -q $DISK; mount $DISK $AT; head -c 64K /dev/urandom >$AT/file; umount $AT
    mount -o ro $DISK $AT`,
  'a read-only bind mount of ext4': `mkfs.ext4 -q $DISK; mkdir -p /tmp/lower; mount $DISK /tmp/lower
    head -c 64K /dev/urandom >/tmp/lower/file
    mount --bind /tmp/lower $AT; mount -o remount,bind,ro $AT`,
  'ext4 noload': `mkfs.ext4 -q $DISK; mount $DISK $AT; head -c 64K /dev/urandom >$AT/file; umount $AT
    mount -o ro,noload $DISK $AT`,
  'ext4 data=journal': 'mkfs.ext4 -q $DISK; mount -o data=journal $DISK $AT',
  'ext4 inline_data': 'mkfs.ext4 -q -O inline_data -I 1024 $DISK; mount $DISK $AT',
  xfs: 'mkfs.xfs -q -f -m reflink=1 $DISK; mount $DISK $AT',
  'xfs with a realtime device': `dmsetup create matrix-rt --table "0 131072 linear 1:1 0"
    mkfs.xfs -q -f -m rmapbt=0,reflink=0 -d rtinherit=1 -r rtdev=/dev/mapper/matrix-rt $DISK
    mount -o rtdev=/dev/mapper/matrix-rt $DISK $AT`,
  f2fs: 'mkfs.f2fs -q -f $DISK; mount $DISK $AT',
  'f2fs mode=lfs': 'mkfs.f2fs -q -f $DISK; mount -o mode=lfs $DISK $AT',
  'f2fs checkpoint=disable': 'mkfs.f2fs -q -f $DISK; mount -o checkpoint=disable $DISK $AT',
  'f2fs over two devices': `dmsetup create matrix-second --table "0 262144 linear 1:1 0"
    mkfs.f2fs -q -f -c /dev/mapper/matrix-second $DISK; mount $DISK $AT`,
  vfat: 'mkfs.vfat $DISK; mount -t vfat $DISK $AT',
  'vfat read-only': `mkfs.vfat $DISK; mount -t vfat $DISK $AT; head -c 64K /dev/urandom >$AT/file
    umount $AT; mount -t vfat -o ro $DISK $AT`,
  btrfs: 'mkfs.btrfs -q -f $DISK; mount $DISK $AT',
  'btrfs compress': 'mkfs.btrfs -q -f $DISK; mount -o compress-force=zstd $DISK $AT',
  'btrfs -d dup': 'mkfs.btrfs -q -f -d dup $DISK; mount $DISK $AT',
  'btrfs over two devices': `dmsetup create matrix-second --table "0 262144 linear 1:1 0"
    mkfs.btrfs -q -f -d single $DISK /dev/mapper/matrix-second; mount $DISK $AT`,
  squashfs: `mkdir /tmp/tree; head -c 64K /dev/urandom >/tmp/tree/file
    mksquashfs /tmp/tree /tmp/squashfs -quiet -no-progress >/dev/null; rm -r /tmp/tree
    cat /tmp/squashfs >$DISK; mount -t squashfs $DISK $AT`,
  erofs: `mkdir /tmp/tree; head -c 64K /dev/urandom >/tmp/tree/file
    mkfs.erofs /tmp/erofs /tmp/tree >/dev/null; rm -r /tmp/tree
    cat /tmp/erofs >$DISK; mount -t erofs $DISK $AT`,
  tmpfs: 'mount -t tmpfs tmpfs $AT',
  ramfs: 'mount -t ramfs ramfs $AT',
  overlay: `mkfs.ext4 -q $DISK; mkdir -p /tmp/lower; mount $DISK /tmp/lower
    mkdir /tmp/lower/lower /tmp/lower/upper /tmp/lower/work
    mount -t overlay overlay -o lowerdir=/tmp/lower/lower,upperdir=/tmp/lower/upper,workdir=/tmp/lower/work $AT`,
  fuse: 'mkfs.ext4 -q $DISK; fuse2fs -o fakeroot $DISK $AT',
  '9p': `"$NODE" "$TOOLS/serve-9p.mjs" /tmp/9p </dev/null >/dev/null 2>&1 & echo $! >/tmp/9p.pid
    while ! [ -e /tmp/9p ]; do sleep 0.1; done
    mount -i -t 9p -o trans=unix,version=9p2000.L /tmp/9p $AT`,
  nfs: 'mkfs.ext4 -q $DISK; mkdir -p /tmp/lower; mount $DISK /tmp/lower; "$TOOLS/nfs.sh" /tmp/lower $AT',
  hostfs: 'ln -s $(readlink -f /bin/true) $AT/file',
  'ext4 straight on a disk': 'mkfs.ext4 -q /dev/ram1; mount /dev/ram1 $AT',
  'ext4 on dm-delay': `dmsetup create matrix-delay --table "0 131072 delay 1:1 0 0"
    mkfs.ext4 -q /dev/mapper/matrix-delay; mount /dev/mapper/matrix-delay $AT`,
} as const

export type Host = keyof typeof HOSTS

export interface Row {
  /** The file, as docs/compatibility.md names it. */
  file: string
  host: Host
  /** Makes $FILE; shell. */
  make?: string
  /** Undoes more than unmounting would; shell. */
  undo?: string
  options?: MapOptions
  writable: Cell | 'ERR_INVALID_ARG_VALUE'
  readOnly: Cell
  /** What comes of both on Linux 6.12, where it is something else. It shows when the file is mapped, in no plan. */
  newer?: Cell
}

const MAPPED = { writable: 'mapped', readOnly: 'mapped' } as const
const refused = (code: DmloopCode): { writable: Cell; readOnly: Cell } => ({
  writable: code,
  readOnly: code,
})
const UNSUPPORTED = refused('DMLOOP_UNSUPPORTED_FILESYSTEM')

/** Without the progress that a terminal gets. */
const MADE_FOR_SWAP =
  '"$NODE" "$DMLOOP" create --guard=swapfile --size=64K $FILE 2>/tmp/create || { cat /tmp/create >&2; false; }'

/** A file of the host's own, which nobody needs to make. */
const THERE = 'test -s $FILE'

export const MATRIX: readonly Row[] = [
  { file: 'on ext2', host: 'ext2', ...MAPPED },
  { file: 'on ext3', host: 'ext3', ...MAPPED },
  { file: 'on ext4', host: 'ext4', ...MAPPED },
  { file: 'on xfs', host: 'xfs', ...MAPPED },
  // 6.12 pins only a file that has no blocks yet: see test/vm/newer-kernel.ts.
  { file: 'on f2fs', host: 'f2fs', ...MAPPED, newer: 'DMLOOP_NOT_PINNED' },
  { file: 'on vfat', host: 'vfat', ...refused('DMLOOP_UNGUARDABLE') },
  { file: "on vfat, with guard: 'none'", host: 'vfat', options: { guard: 'none' }, ...MAPPED },
  ...(['ext4', 'xfs', 'f2fs', 'vfat', 'btrfs'] as const).map((host): Row => ({
    file: `on ${host}, made by createImage for guard: 'swapfile'`,
    host,
    make: MADE_FOR_SWAP,
    options: { guard: 'swapfile' },
    ...MAPPED,
  })),
  {
    file: 'on a read-only mount of ext4',
    host: 'ext4 read-only',
    make: THERE,
    writable: 'DMLOOP_READ_ONLY',
    readOnly: 'mapped',
  },
  {
    file: 'on a read-only mount of vfat',
    host: 'vfat read-only',
    make: THERE,
    writable: 'DMLOOP_READ_ONLY',
    readOnly: 'mapped',
  },
  {
    file: 'through a read-only bind mount',
    host: 'a read-only bind mount of ext4',
    make: THERE,
    writable: 'DMLOOP_READ_ONLY',
    readOnly: 'DMLOOP_UNGUARDABLE',
  },
  {
    file: "through a read-only bind mount, guard: 'none'",
    host: 'a read-only bind mount of ext4',
    make: THERE,
    options: { guard: 'none' },
    writable: 'DMLOOP_READ_ONLY',
    readOnly: 'mapped',
  },
  { file: 'on ext4 mounted with noload', host: 'ext4 noload', make: THERE, ...UNSUPPORTED },
  {
    file: 'on ext4 mounted with data=journal',
    host: 'ext4 data=journal',
    ...refused('DMLOOP_DATA_JOURNALED'),
  },
  {
    file: 'with data journaling (chattr +j)',
    host: 'ext4',
    make: ': >$FILE; chattr +j $FILE; head -c 64K /dev/urandom >$FILE',
    ...refused('DMLOOP_DATA_JOURNALED'),
  },
  {
    file: 'on the realtime device of xfs',
    host: 'xfs with a realtime device',
    ...refused('DMLOOP_REALTIME_FILE'),
  },
  { file: 'on f2fs mounted with mode=lfs', host: 'f2fs mode=lfs', ...refused('DMLOOP_NOT_PINNED') },
  {
    file: "on f2fs, not pinned, with guard: 'none'",
    host: 'f2fs',
    options: { guard: 'none' },
    ...refused('DMLOOP_NOT_PINNED'),
  },
  {
    file: 'on f2fs, not pinned, that is immutable already',
    host: 'f2fs',
    make: 'head -c 64K /dev/urandom >$FILE; chattr +i $FILE',
    undo: 'chattr -i $FILE',
    ...refused('DMLOOP_NOT_PINNED'),
  },
  {
    file: 'on f2fs mounted with checkpoint=disable',
    host: 'f2fs checkpoint=disable',
    ...UNSUPPORTED,
  },
  { file: 'on f2fs over several devices', host: 'f2fs over two devices', ...UNSUPPORTED },
  { file: 'on btrfs', host: 'btrfs', ...refused('DMLOOP_COPY_ON_WRITE') },
  {
    file: 'on btrfs, written in place (chattr +C)',
    host: 'btrfs',
    make: ': >$FILE; chattr +C $FILE; head -c 64K /dev/urandom >$FILE',
    ...refused('DMLOOP_UNGUARDABLE'),
  },
  {
    file: 'on btrfs, compressed',
    host: 'btrfs compress',
    make: 'head -c 1M /dev/zero >$FILE',
    ...refused('DMLOOP_COPY_ON_WRITE'),
  },
  {
    file: 'on btrfs that keeps data twice',
    host: 'btrfs -d dup',
    make: MADE_FOR_SWAP,
    options: { guard: 'swapfile' },
    ...refused('DMLOOP_REPLICATED_EXTENT'),
  },
  {
    file: 'on btrfs over several devices',
    host: 'btrfs over two devices',
    make: MADE_FOR_SWAP,
    options: { guard: 'swapfile' },
    ...UNSUPPORTED,
  },
  {
    file: 'on btrfs, with a snapshot',
    host: 'btrfs',
    make: `${MADE_FOR_SWAP}; btrfs subvolume snapshot $AT $AT/snapshot`,
    options: { guard: 'swapfile' },
    ...refused('DMLOOP_SHARED_EXTENT'),
  },
  {
    file: "that is no image of createImage's for it, with guard: 'swapfile'",
    host: 'ext4',
    make: 'head -c 4M /dev/urandom >$FILE',
    options: { guard: 'swapfile' },
    ...refused('DMLOOP_UNGUARDABLE'),
  },
  { file: 'on squashfs', host: 'squashfs', make: THERE, ...UNSUPPORTED },
  { file: 'on erofs', host: 'erofs', make: THERE, ...UNSUPPORTED },
  { file: 'on tmpfs', host: 'tmpfs', ...UNSUPPORTED },
  { file: 'on ramfs', host: 'ramfs', ...UNSUPPORTED },
  { file: 'on overlay', host: 'overlay', ...UNSUPPORTED },
  { file: 'on a fuse filesystem', host: 'fuse', ...UNSUPPORTED },
  {
    file: 'on 9p',
    host: '9p',
    make: THERE,
    undo: 'umount $AT; kill $(cat /tmp/9p.pid)',
    ...UNSUPPORTED,
  },
  {
    file: 'on nfs',
    host: 'nfs',
    undo: 'umount $AT; echo 0 >/proc/fs/nfsd/threads; umount /proc/fs/nfsd',
    ...UNSUPPORTED,
  },
  { file: 'on hostfs', host: 'hostfs', make: THERE, undo: 'rm $AT/file', ...UNSUPPORTED },
  {
    file: 'on ext4 straight on a disk',
    host: 'ext4 straight on a disk',
    ...refused('DMLOOP_DEVICE_CLAIMED'),
  },
  {
    file: 'on ext4 on dm-crypt, dm-thin, dm-delay and the like',
    host: 'ext4 on dm-delay',
    ...refused('DMLOOP_OPAQUE_DEVICE'),
  },
  {
    file: 'reached through a symbolic link',
    host: 'ext4',
    make: 'head -c 64K /dev/urandom >$AT/real; ln -s real $FILE',
    ...MAPPED,
  },
  {
    file: 'with several hard links',
    host: 'ext4',
    make: 'head -c 64K /dev/urandom >$AT/real; ln $AT/real $FILE',
    ...MAPPED,
  },
  {
    file: 'that is immutable already',
    host: 'ext4',
    make: 'head -c 64K /dev/urandom >$FILE; chattr +i $FILE',
    undo: 'chattr -i $FILE',
    ...MAPPED,
  },
  {
    file: 'that is append-only',
    host: 'ext4',
    make: 'head -c 64K /dev/urandom >$FILE; chattr +a $FILE',
    undo: 'chattr -a $FILE',
    ...refused('DMLOOP_UNGUARDABLE'),
  },
  {
    file: 'with data that has not been allocated on the disk yet',
    host: 'xfs',
    make: 'head -c 64K /dev/urandom >$FILE',
    ...MAPPED,
  },
  {
    file: 'with a hole',
    host: 'xfs',
    make: 'head -c 64K /dev/urandom >$FILE; truncate -s 1M $FILE',
    ...refused('DMLOOP_HOLE'),
  },
  {
    file: "with a hole, with holes: 'zero'",
    host: 'xfs',
    make: 'head -c 64K /dev/urandom >$FILE; truncate -s 1M $FILE',
    options: { holes: 'zero' },
    writable: 'ERR_INVALID_ARG_VALUE',
    readOnly: 'mapped',
  },
  {
    file: 'with a range that was never written (fallocate)',
    host: 'ext4',
    make: 'head -c 64K /dev/urandom >$FILE; fallocate -l 1M $FILE',
    ...refused('DMLOOP_UNWRITTEN_EXTENT'),
  },
  {
    file: 'with a clone (reflink)',
    host: 'xfs',
    make: 'head -c 64K /dev/urandom >$FILE; cp --reflink=always $FILE $FILE.clone',
    ...refused('DMLOOP_SHARED_EXTENT'),
  },
  {
    file: 'with its data in the inode (ext4)',
    host: 'ext4 inline_data',
    make: 'head -c 600 /dev/urandom >$FILE',
    ...refused('DMLOOP_INLINE_DATA'),
  },
  {
    file: 'with its data in the inode (f2fs)',
    host: 'f2fs',
    make: 'head -c 1000 /dev/urandom >$FILE',
    ...refused('DMLOOP_INLINE_DATA'),
  },
  { file: 'that is empty', host: 'ext4', make: ': >$FILE', ...refused('DMLOOP_EMPTY_FILE') },
  {
    file: 'that is a directory',
    host: 'ext4',
    make: 'mkdir $FILE',
    ...refused('DMLOOP_NOT_REGULAR_FILE'),
  },
  {
    file: 'that is a fifo',
    host: 'ext4',
    make: 'mkfifo $FILE',
    ...refused('DMLOOP_NOT_REGULAR_FILE'),
  },
  {
    file: 'that is a character device',
    host: 'ext4',
    make: 'mknod $FILE c 1 3',
    ...refused('DMLOOP_NOT_REGULAR_FILE'),
  },
  {
    file: 'that is a block device',
    host: 'ext4',
    make: 'mknod $FILE b 1 1',
    ...refused('DMLOOP_NOT_REGULAR_FILE'),
  },
  {
    file: 'that is open for writing',
    host: 'ext4',
    make: 'head -c 64K /dev/urandom >$FILE; sleep 1000 >>$FILE </dev/null 2>/dev/null & echo $! >/tmp/writer',
    undo: 'kill $(cat /tmp/writer); while [ -e /proc/$(cat /tmp/writer) ]; do sleep 0.01; done',
    ...refused('DMLOOP_FILE_IN_USE'),
  },
  {
    file: 'that is in use as swap space',
    host: 'ext4',
    make: 'head -c 4M /dev/zero >$FILE; chmod 600 $FILE; mkswap -q $FILE; swapon $FILE',
    undo: 'swapoff $FILE',
    ...refused('DMLOOP_SWAPFILE'),
  },
  {
    file: 'that is the journal of its filesystem (tune2fs -j)',
    host: 'ext2',
    make: 'tune2fs -j $DISK; umount $AT; mount -t ext4 $DISK $AT; ln -s .journal $FILE',
    ...refused('DMLOOP_FILESYSTEM_FILE'),
  },
  {
    file: 'that a loop device uses',
    host: 'ext4',
    make: 'head -c 64K /dev/urandom >$FILE; losetup -f $FILE',
    undo: 'losetup -D',
    ...refused('DMLOOP_ALREADY_MAPPED'),
  },
  {
    file: 'that a loop device uses read-only',
    host: 'xfs',
    make: 'head -c 64K /dev/urandom >$FILE; losetup -rf $FILE',
    undo: 'losetup -D',
    ...refused('DMLOOP_ALREADY_MAPPED'),
  },
]
