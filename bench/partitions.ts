// The devices of an image's partitions: mapFile with `partitions` beside kpartx on a table that is ready, and beside
// losetup -P.
import { planFile } from 'dmloop'
import { sh } from '../test/shell.js'
import { randomFile } from '../test/made-files.js'
import { measuredHost } from './host.js'
import { mapTimes } from './map-times.js'
import { milliseconds, PAIRS, report, spread } from './measure.js'
import type { Row } from './results.js'

const host = await measuredHost('ext4')

async function measure(count: number): Promise<Row> {
  const file = `${host.path}/disk-${count}`
  randomFile(file, (count + 2) << 20)
  const parts = Array.from({ length: count }, () => 'size=1M').join('\n')
  sh(`sfdisk -q ${file}`, `label: gpt\n${parts}\n`)
  const table = (await planFile(file)).toTable()
  const times: number[] = []
  const ratios = { kpartx: [] as number[], losetup: [] as number[], unmap: [] as number[] }
  for (let round = 0; round < PAIRS; round++) {
    const [time, own] = await mapTimes(file, { partitions: true })
    const kpartx = await milliseconds(() =>
      sh('dmsetup create bench && kpartx -a /dev/mapper/bench', table),
    )
    const remove = await milliseconds(() =>
      sh('kpartx -d /dev/mapper/bench && dmsetup remove bench'),
    )
    const losetup = await milliseconds(() => sh(`losetup -P --direct-io=on -f ${file}`))
    sh('losetup -D')
    times.push(time)
    ratios.kpartx.push(time / kpartx)
    ratios.losetup.push(time / losetup)
    ratios.unmap.push(own / remove)
  }
  return {
    partitions: count,
    'mapFile, ms': spread(times),
    'call / dmsetup, kpartx -a': spread(ratios.kpartx),
    'call / losetup -P': spread(ratios.losetup),
    'unmap / kpartx -d, dmsetup remove': spread(ratios.unmap),
  }
}

const rows: Row[] = []
for (const count of [1, 8, 128]) rows.push(await measure(count))
host.remove()
report('partitions', 'An image with partitions', rows)
