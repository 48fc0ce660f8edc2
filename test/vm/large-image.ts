// An image of 9 GiB on vfat, whose files are smaller than 4 GiB, is one device of several files. The disk is
// compressed memory, with logical blocks of 4096 bytes.
import {
  closeSync,
  fsyncSync,
  openSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import t from 'tap'
import { createImage, mapFile } from 'dmloop'
import { makeHost, sh } from './lab.js'

const MIB = 2 ** 20
const SIZE = 9 * 1024 * MIB
const LARGEST = 4095 * MIB
const BLOCK = 4096

writeFileSync('/sys/block/zram0/disksize', '12G')
const sectors = Number(sh('blockdev --getsz /dev/zram0'))
const host = makeHost('vfat', `0 ${sectors} linear ${sh('cat /sys/block/zram0/dev').trim()} 0\n`, {
  mkfs: '-F 32 -S 4096',
})
const file = `${host.path}/image`

const files = await createImage(file, { size: SIZE })
t.strictSame(
  files.map((path) => statSync(path).size),
  [LARGEST, LARGEST, SIZE - 2 * LARGEST],
)

await t.test('a block at each boundary', async (t) => {
  const device = await mapFile(files, { guard: 'none', verify: 'none' })
  t.equal(device.size, SIZE)
  const out = openSync(device.path, 'r+')
  const written = [LARGEST, 2 * LARGEST].map((boundary, index) => {
    const bytes = Buffer.alloc(2 * BLOCK, `${index} at the boundary `)
    writeSync(out, bytes, 0, bytes.length, boundary - BLOCK)
    return bytes
  })
  fsyncSync(out)
  closeSync(out)
  await device.unmap()
  for (const [index, bytes] of written.entries()) {
    const [before = '', after = ''] = files.slice(index)
    t.ok(readAt(before, LARGEST - BLOCK).equals(bytes.subarray(0, BLOCK)), 'the end of a file')
    t.ok(readAt(after, 0).equals(bytes.subarray(BLOCK)), 'the start of the next')
  }
})

function readAt(path: string, offset: number): Buffer {
  const fd = openSync(path, 'r')
  const bytes = Buffer.alloc(BLOCK)
  readSync(fd, bytes, 0, BLOCK, offset)
  closeSync(fd)
  return bytes
}

host.remove()
