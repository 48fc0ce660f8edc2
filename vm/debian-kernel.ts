// Debian's own kernel, unpacked and never installed, with an initramfs that finds the host's files.
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cacheFolder, output, programCommand, run, unpackAlone } from './packages.js'

/** What it takes to see the host's files and to print: modules of their own in this kernel. */
const FIRST_MODULES = ['virtio_pci', '9pnet_virtio', '9p', 'virtio_console']

const INITRAMFS_INIT = fileURLToPath(new URL('../../vm/initramfs.sh', import.meta.url))

interface DebianKernel {
  image: string
  initramfs: string
  /** What is /lib/modules on a machine where it is installed. */
  modules: string
}

/** The newest kernel of a version such as 6.1 in the cache, which is filled first if need be. */
export function debianKernel(version: string, layer: string | undefined): DebianKernel {
  const folder = join(cacheFolder(), `debian-kernel-${version}`)
  if (!existsSync(folder)) {
    console.error(`unpacking Debian's kernel ${version} into ${folder}`)
    made(folder, (fresh) => unpackKernel(version, fresh, layer))
  }
  // Another init makes another initramfs, and leaves alone what is in use.
  const hash = createHash('sha256').update(readFileSync(INITRAMFS_INIT)).digest('hex').slice(0, 16)
  const initramfs = join(folder, `initramfs-${hash}`)
  if (!existsSync(initramfs)) made(initramfs, (fresh) => packInitramfs(folder, fresh, layer))
  return {
    image: join(folder, 'vmlinux'),
    initramfs: join(initramfs, 'cpio'),
    modules: join(folder, 'lib/modules'),
  }
}

/** Makes a folder so that it is there only when it is complete, whoever else makes it meanwhile. */
function made(folder: string, make: (fresh: string) => void): void {
  mkdirSync(join(folder, '..'), { recursive: true })
  const fresh = mkdtempSync(`${folder}-`)
  try {
    make(fresh)
    renameSync(fresh, folder)
  } catch (error) {
    if (!existsSync(folder)) throw error
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}

/** The kernel's version: the package has modules of just one. */
const release = (folder: string): string => readdirSync(join(folder, 'lib/modules'))[0] ?? ''

/** A kernel's package and version: linux-image-6.12.9+deb12-amd64 is a 6.12. Not -cloud, not -rt. */
const IMAGE = /^linux-image-(\d+\.\d+)\.\d+[-+][a-z]*\d+-amd64$/

/** The package with the newest kernel of a version, of all packages there are. */
function newestImage(version: string, packages: string[]): string {
  const images = packages.flatMap((name) => {
    const of = IMAGE.exec(name)?.[1]
    return of === undefined ? [] : [{ name, version: of }]
  })
  const compare = new Intl.Collator('en', { numeric: true }).compare
  const newest = images
    .filter((image) => image.version === version)
    .map(({ name }) => name)
    .sort(compare)
    .at(-1)
  if (newest !== undefined) return newest
  const versions = [...new Set(images.map((image) => image.version))].sort(compare)
  throw new Error(`apt has no kernel ${version}; it has ${versions.join(', ') || 'none'}`)
}

function unpackKernel(version: string, fresh: string, layer: string | undefined): void {
  unpackAlone(fresh, (search) => [newestImage(version, search('^linux-image-')), 'busybox-static'])
  unpackImage(fresh, layer)
  // Which module needs which is found out when the package is installed, which it never is here.
  run([...kmod('depmod', fresh, layer), '-b', fresh, release(fresh)])
}

/** How what zstd has made begins. */
const ZSTD_MAGIC = 0xfd2fb528

/**
 * Decompresses the kernel in the package's image, which could do so itself, but on an emulated
 * processor would take nearly as long for it as for all the rest of booting.
 */
export function unpackImage(folder: string, layer: string | undefined): void {
  const image = readFileSync(join(folder, 'boot', `vmlinuz-${release(folder)}`))
  // setup_sects, payload_offset and payload_length of the x86 boot protocol.
  const start = (image.readUInt8(0x1f1) + 1) * 512 + image.readUInt32LE(0x248)
  // After what is compressed come four bytes with its size.
  const payload = image.subarray(start, start + image.readUInt32LE(0x24c) - 4)
  const program = payload.readUInt32LE(0) === ZSTD_MAGIC ? 'zstd' : 'xz'
  const vmlinux = output([...programCommand(program, layer), '-dc'], payload)
  writeFileSync(join(folder, 'vmlinux'), vmlinux)
}

function packInitramfs(folder: string, fresh: string, layer: string | undefined): void {
  const root = join(fresh, 'root')
  for (const name of ['bin', 'modules', 'root']) mkdirSync(join(root, name), { recursive: true })
  copyFileSync(INITRAMFS_INIT, join(root, 'init'))
  chmodSync(join(root, 'init'), 0o755)
  const busybox = join(folder, 'bin/busybox')
  copyFileSync(busybox, join(root, 'bin/busybox'))
  for (const [index, module] of firstModules(folder, fresh, layer).entries()) {
    const position = String(index).padStart(2, '0')
    const target = join(root, 'modules', `${position}-${basename(module, '.xz')}`)
    // The busybox of the initramfs loads none that is compressed.
    if (module.endsWith('.xz')) {
      writeFileSync(target, output([...programCommand('xz', layer), '-dc', module]))
    } else {
      copyFileSync(module, target)
    }
  }
  run(['sh', '-ec', 'find . | "$0" cpio -o -H newc >"$1"', busybox, join(fresh, 'cpio')], root)
  rmSync(root, { recursive: true })
}

/** The files of the first modules, each after those it needs. */
function firstModules(folder: string, fresh: string, layer: string | undefined): string[] {
  const modprobe = [...kmod('modprobe', fresh, layer), '-d', folder, '-S', release(folder)]
  const insmods = output([...modprobe, '--show-depends', '--all', ...FIRST_MODULES]).toString()
  const paths = [...insmods.matchAll(/^insmod (.*\.ko(?:\.xz)?)/gm)].map(([_, path = '']) => path)
  return [...new Set(paths)]
}

/** The command of a program that is kmod by another name; a layer's links lead past the layer. */
function kmod(name: string, fresh: string, layer: string | undefined): string[] {
  const command = programCommand('kmod', layer)
  symlinkSync(command.pop() ?? '', join(fresh, name))
  return [...command, join(fresh, name)]
}
