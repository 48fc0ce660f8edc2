// The loop backend beside losetup with the options that people use: in the guest on a ram disk, on this machine in
// its folder for temporary files.
import { mapFile } from 'dmloop'
import { quoted, sh } from '../test/shell.js'
import { compare, WORKLOADS } from './fio.js'
import { folderHere, IN_GUEST, measuredHost } from './host.js'
import { report, spread } from './measure.js'
import type { Row } from './results.js'

const SIZE = 128 << 20

const LOSETUP: Record<string, string> = {
  losetup: '',
  'losetup --direct-io=on': '--direct-io=on',
  'losetup --direct-io=on --sector-size=4096': '--direct-io=on --sector-size=4096',
}

const { path: folder, remove } = IN_GUEST ? await measuredHost('ext4') : folderHere()

/** One device's own: what is cached of a file slows down whoever goes past the cache. */
function makeFile(name: string): string {
  const file = `${folder}/${name}`
  sh(`dd if=/dev/urandom of=${quoted(file)} bs=1M count=${SIZE >> 20} conv=fsync`)
  return file
}

const attached: { name: string; path: string }[] = []
const detach = (): void => {
  for (const { path } of attached.splice(0)) sh(`losetup -d ${path}`)
}
process.prependOnceListener('exit', detach)
for (const [index, [name, options]] of Object.entries(LOSETUP).entries()) {
  const file = makeFile(`file-${index}`)
  attached.push({ name, path: sh(`losetup ${options} --show -f ${quoted(file)}`).trim() })
}
await using device = await mapFile(makeFile('mapped'), { backend: 'loop', name: 'bench' })

const rows: Row[] = []
for (const [workload, options] of Object.entries(WORKLOADS)) {
  const rounds = compare([{ name: 'mapFile', path: device.path }, ...attached], options)
  const ratios = Object.keys(LOSETUP).map((other) => [
    `mapFile / ${other}`,
    spread(rounds.map((round) => (round.mapFile?.speed ?? NaN) / (round[other]?.speed ?? NaN))),
  ])
  rows.push({
    workload,
    'mapFile, MiB/s': spread(rounds.map((round) => round.mapFile?.speed ?? NaN)),
    ...(Object.fromEntries(ratios) as Row),
  })
}
report('loop', 'The loop backend beside losetup', rows)
await device.unmap()
detach()
remove()
