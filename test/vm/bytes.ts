// node bytes.js FILESYSTEM: what is read and written through the device is what the file holds, for
// many generated files on host tables of one and of seven segments.
import { rmSync } from 'node:fs'
import t from 'tap'
import type { MapOptions } from 'dmloop'
import {
  deviceNames,
  fragmentedFile,
  leftFiles,
  makeHost,
  manySegments,
  oneSegment,
  randomNumbers,
  scaled,
} from './lab.js'
import { roundTrip } from './round-trip.js'

const KEPT = 20
const LARGEST = 64 << 20
const MOST_EXTENTS = 5000
const [filesystem = 'ext4'] = process.argv.slice(2)
const FILES = scaled(filesystem === 'vfat' ? 50 : 40)
const HOSTS: Record<string, Parameters<typeof makeHost>[2]> = {
  f2fs: { mkfs: '-q', mount: '-o noinline_data' },
  vfat: { mkfs: '-F 32 -s 2' },
  // A ram disk of newer kernels has blocks of 4 KiB, and the seams are at any sector.
  xfs: { mkfs: '-f' },
}
/** Nothing can hold a file of vfat still: the caller must. */
const OPTIONS: MapOptions = filesystem === 'vfat' ? { guard: 'none' } : {}

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
      const segments = await roundTrip(t, file, OPTIONS, random)
      fewest = Math.min(fewest, segments)
      most = Math.max(most, segments)
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
