// node kill.js FILESYSTEM [loop | partitions | fence | swapfile] [all]: SIGKILL between any two system calls of mapFile
// and of unmap that change something; of a loop device at every second of them, on other filesystems than ext4 at every
// third, with partitions or a fence at every fourth, as swap space at every tenth, or all.
// Whatever is left, the next call finds it, and completes or undoes it: also after a reboot, which keeps neither
// devices nor /run nor caches, and also when the device was written to meanwhile.
import { createHash } from 'node:crypto'
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs'
import t from 'tap'
import {
  createImage,
  listMappings,
  mapFile,
  openMapping,
  releaseFile,
  type DmloopError,
} from 'dmloop'
import { killAt } from './kill-at.js'
import {
  deviceNames,
  fileState,
  fragmentedFile,
  leftCookies,
  leftFiles,
  makeHost,
  oneSegment,
  scaledStep,
  sh,
  wrappedHost,
} from './lab.js'

const [filesystem = 'ext4', ...rest] = process.argv.slice(2)
const all = rest.includes('all')
const [variant] = rest.filter((word) => word !== 'all')
const backend = variant === 'loop' ? 'loop' : 'linear'
const partitions = variant === 'partitions'
const fence = variant === 'fence'
const swapfile = variant === 'swapfile'
const guard = swapfile ? 'swapfile' : 'immutable'
/** Bytes of the file that are not the device's. */
const HEAD = swapfile ? 1 << 20 : 0
/** On ext4 alone, all of them are tried in every run. */
const FEWER =
  { loop: 2, partitions: 4, fence: 4, swapfile: 10 }[variant ?? ''] ??
  (filesystem === 'ext4' ? 1 : 3)
const step = all ? 1 : scaledStep(FEWER)

const BLOCK = 4096

const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
const loops = (): string => sh('losetup -l --noheadings')

/** Of the device that the filesystem is on: a fence would be there. */
const hostTable = (): string => sh(`dmsetup table ${host.name}`)

/** The two pages of swap space name the file's inode, which on vfat is another one after a reboot. */
const sumOf = (bytes: Buffer): string =>
  digest(swapfile ? Buffer.concat([bytes.subarray(0, BLOCK), bytes.subarray(3 * BLOCK)]) : bytes)

/** Everything of the file, and its bytes as the page cache and as the disk have them. */
function stateOf(): { state: object; attributes: string; sum: string[] } {
  const { sum: _, ...state } = JSON.parse(fileState(file)) as { sum: string }
  const direct = '/tmp/direct'
  sh(`dd if=${file} of=${direct} iflag=direct bs=64K status=none`)
  const sum = [sumOf(readFileSync(file)), sumOf(readFileSync(direct))]
  return { state, attributes: sh(`getfattr -d -m - ${file}`), sum }
}

const host = fence
  ? await wrappedHost(filesystem)
  : makeHost(filesystem, oneSegment(), { mkfs: /f2fs|btrfs/.test(filesystem) ? '-q' : '' })
const file = `${host.path}/image`
if (swapfile) {
  await createImage(file, { size: 256 << 10, guard })
} else {
  fragmentedFile(file, 256 << 10, 8, 1)
}
if (partitions) {
  const table = 'label: gpt\nfirst-lba: 34\nstart=64, size=128\nstart=256, size=128\n'
  sh(`sfdisk -q ${file}; sync ${file}`, table)
}

/** What the file must hold: what it held, and what was written to a device that showed it. */
const content = readFileSync(file)
/** Where blocks are written: not in a partition table. */
const AT = 20 * BLOCK

/** Has the file cached, and writes a block to the device that a kill has left, if it is one. */
function writeToDevice(value: number): void {
  try {
    readFileSync(file)
  } catch (error) {
    if (!fence || (error as NodeJS.ErrnoException).code !== 'EIO') throw error
  }
  const [left] = sh(
    'dmsetup info -c --noheadings --separator " " -o uuid,major,minor,tables_loaded',
  )
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([uuid, , , tables]) => uuid?.startsWith('DMLOOP-') === true && tables === 'Live')
  if (!left) return
  const [, major = '', minor = ''] = left
  const node = '/dev/left'
  sh(`rm -f ${node}; mknod ${node} b ${major} ${minor}`)
  const device = openSync(node, 'r+')
  content.fill(value, HEAD + AT, HEAD + AT + BLOCK)
  writeSync(device, content, HEAD + AT, BLOCK, AT)
  fsyncSync(device)
  closeSync(device)
}

function reboot(): void {
  // The flag of a file stays, whatever becomes of swap space.
  sh(`flags=$(lsattr ${file} 2>/dev/null | cut -c5)
      [ "$flags" != i ] || chattr -i ${file}
      swapoff -a; ipcrm -a
      [ "$flags" != i ] || chattr +i ${file}`)
  // Partitions come after their device.
  sh(`for name in $(dmsetup info -c --noheadings -o name | sort -r); do
        [ $name = ${host.name} ] || dmsetup remove --retry $name
      done
      losetup -D; dmsetup udevcomplete_all -y >/dev/null; rm -rf /run/dmloop; umount ${host.path}; mount /dev/mapper/${host.name} ${host.path}
      find /dev/mapper ! -name control ! -name ${host.name} ! -type d -delete`)
}

async function mapAndUnmap(): Promise<void> {
  const device = await mapFile(file, OPTIONS).catch((error: unknown) => {
    if ((error as DmloopError).code === 'DMLOOP_ALREADY_MAPPED') return openMapping(file)
    throw error
  })
  const { problems } = await device.verify({ content: 'full' })
  // A process that was killed before it raised the fence has handed the device to nobody.
  const others = problems.filter(({ code }) => !fence || code !== 'DMLOOP_UNFENCED')
  t.strictSame(others, [], 'the mapping is whole')
  await device.unmap()
}

/** The ways back. */
const RECOVERIES: Record<string, () => Promise<void>> = {
  async 'listMappings, unmap, releaseFile'() {
    for (const device of await listMappings()) {
      if (device.name !== host.name) await device.unmap()
    }
    await releaseFile(file)
  },
  'mapFile, unmap': mapAndUnmap,
  async 'reboot, releaseFile'() {
    reboot()
    await releaseFile(file)
  },
  async 'reboot, mapFile, unmap'() {
    reboot()
    await mapAndUnmap()
  },
}

const TABLE = hostTable()
const OPTIONS = { backend, partitions, fence, guard } as const
/** Areas, and the memory that fills them. */
const swapSpace = (): string => sh('tail -n +2 /proc/swaps; tail -n +2 /proc/sysvipc/shm')
const WAYS = Object.entries(RECOVERIES)
/** Each call is followed by one way back; on the next filesystem, by another. */
const turn = ['ext4', 'xfs', 'f2fs'].indexOf(filesystem)

for (const verb of ['map', 'unmap']) {
  await t.test(`${verb}, killed at each call`, async (t) => {
    const { sum: _, ...before } = stateOf()
    let call = 1
    for (; ; call += step) {
      if (verb === 'unmap') await mapFile(file, OPTIONS)
      const killed = killAt(call, verb, file, variant ?? backend)
      // What is written through a loop device is the filesystem's own affair.
      if (backend === 'linear') writeToDevice(call)
      const [way, recover] = WAYS[
        (Math.ceil(call / step) + turn) % WAYS.length
      ] as (typeof WAYS)[number]
      await recover()
      const { sum, ...found } = stateOf()
      // The lock on a wrapper is an empty file, which the next to take it removes.
      const files = leftFiles().filter((name) => name !== 'wrap-1-0.json')
      const left = [...files, ...leftCookies()]
      const clean = {
        file: found,
        sum,
        devices: deviceNames(),
        left,
        loops: loops(),
        swap: swapSpace(),
        table: hostTable(),
      }
      const expected = {
        file: before,
        // As the page cache has it, and as the disk has it.
        sum: [sumOf(content), sumOf(content)],
        devices: [host.name],
        left: [],
        loops: '',
        swap: '',
        table: TABLE,
      }
      t.strictSame(clean, expected, `${call}: ${killed}; ${way}`)
      if (killed.endsWith('in all')) break
    }
    t.ok(call > (verb === 'map' && backend === 'linear' ? 12 : 7), `${call - 1} calls`)
  })
}
host.remove()
