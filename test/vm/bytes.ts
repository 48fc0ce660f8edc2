// node bytes.js FILESYSTEM: what is read and written through the device is what the file holds, for
// many generated files on host tables of one and of seven segments.
import { closeSync, fsyncSync, openSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs'
import { createHash } from 'node:crypto'
import t from 'tap'
import { mapFile, type MapOptions } from 'dmloop'
import {
  below,
  deviceNames,
  fragmentedFile,
  leftFiles,
  makeHost,
  manySegments,
  oneSegment,
  randomNumbers,
  sha256,
} from './lab.js'

const FILES = 50
const KEPT = 25
const LARGEST = 64 << 20
const MOST_EXTENTS = 5000
const [filesystem = 'ext4'] = process.argv.slice(2)
const HOSTS: Record<string, Parameters<typeof makeHost>[2]> = {
  f2fs: { mkfs: '-q', mount: '-o noinline_data' },
  vfat: { mkfs: '-F 32 -s 2' },
}
/** Nothing can hold a file of vfat still: the caller must. */
const OPTIONS: MapOptions = filesystem === 'vfat' ? { guard: 'none' } : {}

const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

/** Sizes and extents spread evenly over their orders of magnitude, the extremes included. */
function shapes(seed: number): { bytes: number; extents: number }[] {
  const random = randomNumbers(seed)
  return Array.from({ length: FILES }, (_, index) => {
    if (index === 0) return { bytes: MOST_EXTENTS * 4096 * 1.5, extents: MOST_EXTENTS }
    if (index === 1) return { bytes: 4096, extents: 1 }
    if (index === 2) return { bytes: 512, extents: 1 }
    if (index === FILES - 1) return { bytes: LARGEST, extents: 64 }
    // Ends within a block of the filesystem as often as not.
    const bytes = 512 * Math.ceil(2 ** (3 + random() * 14))
    return { bytes, extents: Math.ceil((bytes / 4096) ** random()) }
  })
}

/** Writes random blocks through the device, and the same into the bytes that the file had. */
function scribble(path: string, bytes: Buffer, random: () => number): void {
  const device = openSync(path, 'r+')
  const blocks = bytes.length / 512
  for (let i = 0; i < Math.min(blocks, 200); i++) {
    const start = below(random, blocks)
    const count = 1 + below(random, Math.min(16, blocks - start))
    const data = Buffer.from(Array.from({ length: count * 512 }, () => below(random, 256)))
    writeSync(device, data, 0, data.length, start * 512)
    data.copy(bytes, start * 512)
  }
  fsyncSync(device)
  closeSync(device)
}

// Reading the FAT block by block takes its time: once is enough.
for (const segments of filesystem === 'vfat' ? [7] : [1, 7]) {
  const table = segments === 1 ? oneSegment() : manySegments(segments, 7)
  await t.test(`${filesystem} on ${segments} segments`, async (t) => {
    const host = makeHost(filesystem, table, HOSTS[filesystem])
    const random = randomNumbers(segments)
    let fewest = Infinity
    let most = 0
    for (const [index, { bytes, extents }] of shapes(segments).entries()) {
      const file = `${host.path}/image-${index}`
      fragmentedFile(file, bytes, extents, index)
      const content = readFileSync(file)
      const original = digest(content)
      const device = await mapFile(file, OPTIONS)
      fewest = Math.min(fewest, device.segmentCount)
      most = Math.max(most, device.segmentCount)

      const label = `${bytes} bytes in ${device.segmentCount} segments`
      const read = await sha256(device.path, device.size)
      scribble(device.path, content, random)
      const wrote = await sha256(device.path, device.size)
      const check = await device.verify()
      await device.unmap()
      t.strictSame(
        { size: device.size, read, wrote, after: digest(readFileSync(file)), check },
        {
          size: statSync(file).size,
          read: original,
          wrote: digest(content),
          after: digest(content),
          check: { ok: true, problems: [] },
        },
        label,
      )
      // Most stay, so that the space they leave does not heal the next file's pieces.
      if (index >= KEPT) rmSync(file)
    }
    t.equal(fewest, 1, 'a file in one piece was among them')
    t.ok(most > 4000, `the most pieces were ${most}`)
    t.strictSame(deviceNames(), [host.name], 'only the host device is left')
    t.strictSame(leftFiles(), [], 'no record or node is left')
    host.remove()
  })
}
