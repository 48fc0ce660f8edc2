// The programs that the kernel bench and the tests need, from Debian's packages.
import { execFileSync, spawnSync } from 'node:child_process'
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

/** Each program that commands in a guest need, and the Debian package that brings it. */
const PROGRAMS: Record<string, string> = {
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
  fio: 'fio',
  img2simg: 'android-sdk-libsparse-utils',
  'make-dynpart-mappings': 'make-dynpart-mappings',
  xz: 'xz-utils',
  zstd: 'zstd',
  kpartx: 'kpartx',
  partx: 'util-linux',
  sfdisk: 'fdisk',
  sgdisk: 'gdisk',
  parted: 'parted',
  veritysetup: 'cryptsetup-bin',
  'qemu-system-x86_64': 'qemu-system-x86',
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

/** The first words of a command that runs a program of this machine or of the layer. */
export function programCommand(name: string, layer: string | undefined): string[] {
  const path = findProgram(name) ?? findProgram(name, layer)
  if (!path) throw new Error(`${name} is not where its package puts it`)
  // The loader does not look into a layer for libraries by itself.
  return layer ? ['env', `LD_LIBRARY_PATH=${libraries(layer)}`, path] : [path]
}

const libraries = (layer: string): string =>
  readdirSync(join(layer, 'usr/lib'))
    .filter((name) => name.endsWith('-linux-gnu'))
    .map((name) => join(layer, 'usr/lib', name))
    .join(':')

/** The folder of what is fetched and made once. */
export const cacheFolder = (): string =>
  join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'dmloop')

export function run([program = '', ...args]: string[], cwd?: string): void {
  // Standard output belongs to the command in the guest, so package chatter goes to the error stream.
  const { status } = spawnSync(program, args, {
    ...(cwd === undefined ? {} : { cwd }),
    stdio: ['ignore', 2, 2],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} failed`)
}

export function output([program = '', ...args]: string[], input = Buffer.alloc(0)): Buffer {
  return execFileSync(program, args, {
    input,
    stdio: ['pipe', 'pipe', 'inherit'],
    maxBuffer: 1 << 28,
  })
}

function install(packages: string[]): void {
  run(['apt-get', '-q', 'update'])
  run(['apt-get', '-q', 'install', '-y', '--no-install-recommends', ...packages])
}

/** The options with which apt keeps its lists and archives in a folder of ours: needs no root. */
function ownApt(apt: string): string[] {
  for (const folder of ['lists/partial', 'archives/partial']) {
    mkdirSync(join(apt, folder), { recursive: true })
  }
  const own = [
    `Dir::State::Lists=${join(apt, 'lists')}`,
    `Dir::Cache=${apt}`,
    'Debug::NoLocking=true',
    // As root, apt would download as a user who may not look into our folder.
    'APT::Sandbox::User=root',
  ].flatMap((setting) => ['-o', setting])
  run(['apt-get', '-q', ...own, 'update'])
  return own
}

function extract(archive: string, folder: string): void {
  const script = 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"'
  run(['sh', '-ec', script, 'extract', archive, folder])
}

const archivesIn = (folder: string): string[] =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.deb'))
    .map((name) => join(folder, name))

/** Downloads packages, with what they depend on, and unpacks them into `layer`: needs no root. */
function unpack(packages: string[], layer: string): void {
  const apt = join(layer, '..', 'apt')
  const install = ['install', '-y', '--no-install-recommends', '--download-only', ...packages]
  run(['apt-get', '-q', ...ownApt(apt), ...install])
  // The layer goes over a merged /usr, so it must be merged as well.
  for (const folder of ['bin', 'sbin', 'lib']) {
    mkdirSync(join(layer, 'usr', folder), { recursive: true })
    if (!existsSync(join(layer, folder))) symlinkSync(`usr/${folder}`, join(layer, folder))
  }
  for (const archive of archivesIn(join(apt, 'archives'))) extract(archive, layer)
}

/**
 * Downloads single packages, whatever of them is installed, and unpacks them into `folder`. `choose`
 * names them; it is given what lists the packages whose names match a pattern.
 */
export function unpackAlone(
  folder: string,
  choose: (search: (pattern: string) => string[]) => string[],
): void {
  requireApt('packages of Debian')
  const own = ownApt(join(folder, 'apt'))
  const packages = choose((pattern) =>
    output(['apt-cache', ...own, 'search', '--names-only', pattern])
      .toString()
      .split('\n')
      .map((line) => line.split(' - ')[0] ?? ''),
  )
  const archives = join(folder, 'apt', 'archives')
  run(['apt-get', '-q', ...own, 'download', ...packages], archives)
  for (const archive of archivesIn(archives)) extract(archive, folder)
  rmSync(join(folder, 'apt'), { recursive: true })
}

function requireApt(lacking: string): void {
  if (findProgram('apt-get')) return
  throw new Error(
    `this machine lacks ${lacking}, and has no apt-get to fetch them with: ` +
      'install them with its own package manager',
  )
}

/**
 * Makes sure that every program is there, those of one kind of guest included: installed with apt-get
 * as root, unpacked into a cache folder otherwise. Returns that folder if it is in use. Throws with
 * what is missing where there is no apt-get.
 */
export function ensurePrograms(ofTheKernel: Record<string, string>): string | undefined {
  const programs = { ...ofTheKernel, ...PROGRAMS }
  const missing = Object.keys(programs).filter((name) => !findProgram(name))
  if (missing.length === 0) return undefined

  const packages = [...new Set(missing.map((name) => programs[name] ?? name))]
  requireApt(`${missing.join(', ')} (in Debian: packages ${packages.join(', ')})`)
  if (process.getuid?.() === 0) {
    console.error(`installing ${packages.join(' ')}`)
    install(packages)
    return undefined
  }
  const layer = join(cacheFolder(), 'layer')
  if (missing.some((name) => !findProgram(name, layer))) {
    console.error(`unpacking ${packages.join(' ')} into ${layer}`)
    unpack(packages, layer)
  }
  return layer
}
