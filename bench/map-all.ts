// ImageStore.mapAll beside `dmsetup create --concise` with the same tables: 1,000 images of 4 segments.
import { readFileSync, unlinkSync, writeFileSync } from 'node:fs'
import { ImageStore, wrapDevice } from 'dmloop'
import { sh } from '../test/shell.js'
import { milliseconds, PAIRS, report, spread } from './measure.js'

const IMAGES = 1000
const SEGMENTS = 4
/** Sectors of a segment. */
const LENGTH = 64
const METADATA = '/tmp/metadata'

sh('mkfs.ext4 -q /dev/ram0; mkdir -p /tmp/host')
const host = await wrapDevice('/dev/ram0', { name: 'host' })
sh(`mount ${host.path} /tmp/host`)
const store = await ImageStore.open('/tmp/host', { metadata: METADATA })
await store.create('one', { size: 1 << 20 })
sh('umount /tmp/host')

// One real image has a label, which all the others are recorded to have as well.
const one = `${METADATA}/one.json`
const metadata = JSON.parse(readFileSync(one, 'utf8')) as Record<string, unknown>
unlinkSync(one)
const concise = Array.from({ length: IMAGES }, (_, image) => {
  const name = `image-${image}`
  const segments = Array.from({ length: SEGMENTS }, (_, index) => {
    const start = index * LENGTH
    return [start, LENGTH, 0, 100_000 + (image * SEGMENTS + index) * 2 * LENGTH]
  })
  const files = [{ name, handle: `81${image.toString(16).padStart(8, '0')}` }]
  const size = SEGMENTS * LENGTH * 512
  writeFileSync(`${METADATA}/${name}.json`, JSON.stringify({ ...metadata, files, segments, size }))
  const table = segments.map(
    ([start, length, , offset]) => `${start} ${length} linear 1:0 ${offset}`,
  )
  return [name, '', '', 'rw', ...table].join(',')
})
/** dmsetup reads no more than 64 KiB of its standard input. */
const AT_ONCE = 250

const remove = (): void =>
  void sh("dmsetup ls | grep '^image-' | cut -f1 | xargs -n 100 dmsetup remove")
const ratios: number[] = []
const times: number[] = []
for (let round = 0; round < PAIRS; round++) {
  const other = await milliseconds(() => {
    for (let first = 0; first < IMAGES; first += AT_ONCE) {
      sh('dmsetup create --concise', concise.slice(first, first + AT_ONCE).join(';'))
    }
  })
  remove()
  const own = await milliseconds(async () => {
    const { problems } = await store.mapAll()
    if (problems[0]) throw new Error(problems[0].problem.message)
  })
  remove()
  ratios.push(own / other)
  times.push(own)
}
await host.unmap()
report('map-all', 'mapAll in the guest', [
  {
    images: IMAGES,
    'segments of each': SEGMENTS,
    'mapAll, ms': spread(times),
    'time / of dmsetup create --concise': spread(ratios),
  },
])
