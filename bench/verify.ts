// verify with all of the content beside cmp of the file and the device.
import { mapFile } from 'dmloop'
import { sh } from '../test/shell.js'
import { randomFile } from '../test/made-files.js'
import { measuredHost } from './host.js'
import { milliseconds, PAIRS, report, spread } from './measure.js'

const SIZE = 256 << 20

const host = await measuredHost('ext4')
const file = `${host.path}/image`
randomFile(file, SIZE)
const device = await mapFile(file, { name: 'bench' })
const ratios: number[] = []
const speeds: number[] = []
const dropCaches = (): void => void sh('sync; echo 1 >/proc/sys/vm/drop_caches')
for (let round = 0; round < PAIRS; round++) {
  dropCaches()
  const own = await milliseconds(async () => {
    const { ok } = await device.verify({ content: 'full' })
    if (!ok) throw new Error('the device differs from its file')
  })
  dropCaches()
  const other = await milliseconds(() => sh(`cmp ${file} ${device.path}`))
  ratios.push(own / other)
  speeds.push((SIZE >> 20) / (own / 1000))
}
await device.unmap()
host.remove()
report('verify', 'verify with all of the content', [
  {
    'MiB of the file': SIZE >> 20,
    'verify, MiB/s': spread(speeds),
    'time / of cmp': spread(ratios),
  },
])
