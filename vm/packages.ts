// The programs that the kernel bench and the tests need, from Debian's packages.
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

/** Each program and the Debian package that brings it. */
const PROGRAMS: Record<string, string> = {
  'linux.uml': 'user-mode-linux',
  kmod: 'kmod',
  udevadm: 'udev',
  dmsetup: 'dmsetup',
  strace: 'strace',
  'mkfs.ext4': 'e2fsprogs',
  getfattr: 'attr',
  'mkfs.xfs': 'xfsprogs',
  'mkfs.f2fs': 'f2fs-tools',
  'mkfs.vfat': 'dosfstools',
  'mkfs.btrfs': 'btrfs-progs',
  'mkfs.erofs': 'erofs-utils',
  mksquashfs: 'squashfs-tools',
  fuse2fs: 'fuse2fs',
  lvm: 'lvm2',
  cryptsetup: 'cryptsetup-bin',
}

const FOLDERS = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']

/** The path of a program on this machine, or in a folder of unpacked packages. */
export function findProgram(name: string, layer = ''): string | undefined {
  return FOLDERS.map((folder) => join(layer, folder, name)).find((path) => {
    try {
      accessSync(path, constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

function run(command: string, args: string[]): void {
  // Standard output belongs to the command in the guest, so package chatter goes to the error stream.
  const { status } = spawnSync(command, args, {
    stdio: ['ignore', 2, 2],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed`)
}

function install(packages: string[]): void {
  run('apt-get', ['-q', 'update'])
  run('apt-get', ['-q', 'install', '-y', '--no-install-recommends', ...packages])
}

/** Downloads packages, with what they depend on, and unpacks them into `layer`: needs no root. */
function unpack(packages: string[], layer: string): void {
  const apt = join(layer, '..', 'apt')
  const archives = join(apt, 'archives')
  for (const folder of ['lists/partial', 'archives/partial']) {
    mkdirSync(join(apt, folder), { recursive: true })
  }
  const own = [
    `Dir::State::Lists=${join(apt, 'lists')}`,
    `Dir::Cache=${apt}`,
    'Debug::NoLocking=true',
  ].flatMap((setting) => ['-o', setting])
  run('apt-get', ['-q', ...own, 'update'])
  run('apt-get', [
    ...['-q', ...own, 'install', '-y', '--no-install-recommends', '--download-only'],
    ...packages,
  ])
  // The layer goes over a merged /usr, so it must be merged as well.
  for (const folder of ['bin', 'sbin', 'lib']) {
    mkdirSync(join(layer, 'usr', folder), { recursive: true })
    if (!existsSync(join(layer, folder))) symlinkSync(`usr/${folder}`, join(layer, folder))
  }
  for (const file of readdirSync(archives).filter((name) => name.endsWith('.deb'))) {
    run('sh', [
      '-ec',
      'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"',
      'unpack',
      join(archives, file),
      layer,
    ])
  }
}

/**
 * Makes sure that every program is there: installed with apt-get as root, unpacked into a cache
 * folder otherwise. Returns that folder if it is in use. Throws with what is missing where there is
 * no apt-get.
 */
export function ensurePrograms(): string | undefined {
  const missing = Object.keys(PROGRAMS).filter((name) => !findProgram(name))
  if (missing.length === 0) return undefined

  const packages = [...new Set(missing.map((name) => PROGRAMS[name] ?? name))]
  if (!findProgram('apt-get')) {
    throw new Error(
      `this machine lacks ${missing.join(', ')} (in Debian: packages ${packages.join(', ')}), ` +
        'and has no apt-get to fetch them with: install them with its own package manager',
    )
  }
  if (process.getuid?.() === 0) {
    console.error(`installing ${packages.join(' ')}`)
    install(packages)
    return undefined
  }
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache')
  const layer = join(cache, 'dmloop', 'layer')
  if (missing.some((name) => !findProgram(name, layer))) {
    console.error(`unpacking ${packages.join(' ')} into ${layer}`)
    unpack(packages, layer)
  }
  return layer
}
