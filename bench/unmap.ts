// unmap of a large file, which looks for pages that are left in the cache: with none, and with some all over it.
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs'
import { createImage, mapFile } from 'dmloop'
import { makeHost, sh } from '../test/vm/lab.js'
import { milliseconds, PAIRS, report, spread } from './measure.js'
import type { Row } from './results.js'

const GIB = 2 ** 30
const PAGE = 4096

// Compressed memory, which keeps no page of zeros.
sh('modprobe zram')
writeFileSync('/sys/block/zram0/disksize', '72G')
const number = sh('cat /sys/block/zram0/dev').trim()
const sectors = sh('blockdev --getsz /dev/zram0').trim()
const host = makeHost('ext4', `0 ${sectors} linear ${number} 0`, { mkfs: '-q -b 4096' })

/** Has so many pages of a file in memory, spread evenly over it. */
function readPages(file: string, size: number, count: number): void {
  const fd = openSync(file, 'r')
  const page = Buffer.alloc(PAGE)
  // Else the kernel reads ahead (posix_fadvise(2), which Node.js has not): one page, far from the last.
  for (let index = 0; index < count; index++) {
    readSync(fd, page, 0, PAGE, Math.floor((size / count) * index))
  }
  closeSync(fd)
}

async function measure(file: string, gibibytes: number, cached: number): Promise<Row> {
  const times: number[] = []
  const ratios: number[] = []
  for (let round = 0; round < PAIRS; round++) {
    const device = await mapFile(file, { name: 'bench', verify: 'none' })
    readPages(file, gibibytes * GIB, cached)
    const own = await milliseconds(() => device.unmap())
    sh('dmsetup create bench --notable')
    const remove = await milliseconds(() => sh('dmsetup remove bench'))
    times.push(own)
    ratios.push(own / remove)
  }
  return {
    'file, GiB': gibibytes,
    'places in memory': cached,
    'unmap, ms': spread(times),
    'unmap / dmsetup remove': spread(ratios),
  }
}

const rows: Row[] = []
for (const gibibytes of [1, 64]) {
  const file = `${host.path}/image`
  await createImage(file, { size: gibibytes * GIB })
  for (const cached of [0, 1000, 20_000]) rows.push(await measure(file, gibibytes, cached))
  sh(`rm ${file}`)
}
host.remove()
report('unmap', 'unmap of a large file', rows)
