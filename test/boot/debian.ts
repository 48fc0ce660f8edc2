// Debian 12 as debootstrap installs it, its initramfs made by its own tools, and disks with it.
import { createHash, randomUUID } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { unpackImage } from '../../vm/debian-kernel.js'
import { cacheFolder, ensurePrograms, output, run } from '../../vm/packages.js'
import type { Kind } from './kinds.js'

const PACKAGES = [
  ...[
    'systemd-sysv',
    'udev',
    'kmod',
    'mount',
    'dmsetup',
    'e2fsprogs',
    'fdisk',
    'attr',
    'libstdc++6',
  ],
  ...['initramfs-tools', 'dracut-core', 'busybox', 'cpio', 'zstd', 'linux-image-amd64'],
]

/** What no boot here reads, and would make every disk larger. */
const LEFT_OUT = [
  ...['var/cache/apt/archives', 'var/lib/apt/lists', 'usr/share/doc', 'usr/share/locale'],
  ...['gpu', 'media', 'net', 'infiniband', 'staging', 'iio', 'usb', 'scsi', 'ata', 'video'].map(
    (folder) => `usr/lib/modules/*/kernel/drivers/${folder}`,
  ),
  'usr/lib/modules/*/kernel/sound',
]

/** Runs what a test has put into its share, with the host's files at hand, and stops the machine. */
const STEP = `#!/bin/sh
modprobe -a 9pnet_virtio 9p
mkdir -p /mnt/host /mnt/share
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /mnt/host
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /mnt/share
sh /mnt/share/step >/mnt/share/output 2>&1
echo $? >/mnt/share/status
sync
systemctl poweroff --force
`

const STEP_UNIT = `[Service]
Type=oneshot
ExecStart=/opt/step
TimeoutStartSec=infinity
`

const SETTINGS: Record<string, string> = {
  'opt/step': STEP,
  'etc/systemd/system/step.service': STEP_UNIT,
  // The guest's disks need no other drivers; fewer make a smaller and faster initramfs.
  'etc/initramfs-tools/conf.d/guest': 'MODULES=list\nCOMPRESS=zstd\n',
  'etc/initramfs-tools/modules': 'virtio_pci\nvirtio_blk\next4\n',
  'etc/dracut.conf.d/guest.conf':
    'hostonly=no\nadd_drivers+=" virtio_pci virtio_blk "\ndrivers="virtio_pci virtio_blk ext4 crc32c_generic dm_mod"\n',
  'etc/hostname': 'guest\n',
  'etc/fstab': '',
}

const hashOf = (text: string): string =>
  createHash('sha256').update(text).digest('hex').slice(0, 12)

/** The folder of the installed system; its vmlinux is the kernel, decompressed. */
export function debian(): string {
  const layer = ensurePrograms({ debootstrap: 'debootstrap' })
  if (process.getuid?.() !== 0) throw new Error('debootstrap and chroot need root')
  const key = hashOf(JSON.stringify([PACKAGES, LEFT_OUT, SETTINGS]))
  const tree = join(cacheFolder(), `debian-12-${key}`)
  if (existsSync(tree)) return tree
  console.error(`installing Debian 12 into ${tree}`)
  mkdirSync(cacheFolder(), { recursive: true })
  const fresh = mkdtempSync(`${tree}-`)
  const mirror = process.env.DMLOOP_DEBIAN_MIRROR ?? 'http://deb.debian.org/debian'
  const include = `--include=${PACKAGES.join(',')}`
  run(['debootstrap', '--variant=minbase', include, 'bookworm', fresh, mirror])
  configure(fresh, layer)
  renameSync(fresh, tree)
  return tree
}

function configure(tree: string, layer: string | undefined): void {
  run(['sh', '-ec', `cd "$0" && rm -rf ${LEFT_OUT.join(' ')}`, tree])
  run(['chroot', tree, 'depmod', releaseOf(tree)])
  for (const [path, content] of Object.entries(SETTINGS)) {
    mkdirSync(dirname(join(tree, path)), { recursive: true })
    writeFileSync(join(tree, path), content, { mode: path === 'opt/step' ? 0o755 : 0o644 })
  }
  const wants = join(tree, 'etc/systemd/system/multi-user.target.wants')
  mkdirSync(wants, { recursive: true })
  symlinkSync('../step.service', join(wants, 'step.service'))
  unpackImage(tree, layer)
}

const releaseOf = (tree: string): string => readdirSync(join(tree, 'usr/lib/modules'))[0] ?? ''

const MAKE: Record<Kind, string[]> = {
  'initramfs-tools': ['mkinitramfs', '-o', '/tmp/initrd'],
  dracut: ['dracut', '--force', '--no-compress', '--quiet', '/tmp/initrd'],
}

/** dracut reads what the kernel has, and mounts go with the namespace. */
const IN_ROOT =
  'mount -t proc proc "$0/proc"; mount -t sysfs -o ro sysfs "$0/sys"; exec chroot "$0" "$@"'

/** Makes an initramfs by the distribution's tool, in a copy of the system with the files of an archive. */
export function makeInitramfs(
  tree: string,
  kind: Kind,
  archive: string | undefined,
  target: string,
): void {
  const copy = mkdtempSync(`${target}-`)
  try {
    run(['cp', '-a', '--reflink=auto', `${tree}/.`, copy])
    if (archive !== undefined) run(['tar', '--no-same-owner', '-C', copy, '-xf', archive])
    run(['unshare', '--mount', 'sh', '-ec', IN_ROOT, copy, ...MAKE[kind], releaseOf(tree)])
    copyFileSync(join(copy, 'tmp/initrd'), target)
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

const MIB = 2 ** 20

/** Makes an ext4 filesystem in a file, in a partition or not, with the system or empty. */
export function makeDisk(
  path: string,
  size: number,
  { tree, partition }: { tree?: string; partition?: boolean },
): { partUuid: string } {
  const partUuid = randomUUID()
  writeFileSync(path, '')
  truncateSync(path, size * MIB)
  if (partition) {
    const table = `label: gpt\nstart=2048, size=${(size - 2) * 2048}, uuid=${partUuid}\n`
    output(['sfdisk', '-q', path], Buffer.from(table))
  }
  run([
    ...['mkfs.ext4', '-q', '-F', '-b', '4096', '-E', `offset=${partition ? MIB : 0}`],
    ...(tree === undefined ? [] : ['-d', tree]),
    ...[path, `${(partition ? size - 2 : size) * 1024}k`],
  ])
  return { partUuid }
}
