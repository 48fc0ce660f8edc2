// The loop backend beside losetup with the options that people use: in the guest on a ram disk, on this machine in
// its folder for temporary files.
import { mapFile } from 'dmloop'
import { quoted, sh } from '../test/shell.js'
import { compare, WORKLOADS, type Measured } from './fio.js'
import { folderHere, IN_GUEST, measuredHost } from './host.js'
import { report, spread } from './measure.js'
import type { Row } from './results.js'

const SIZE = 128 << 20

/** The options of each. */
const LOSETUP: Record<string, string> = {
  losetup: '',
  'losetup --direct-io=on': '--direct-io=on',
  'losetup --direct-io=on --sector-size=4096': '--direct-io=on --sector-size=4096',
}

const { path: folder, remove } = IN_GUEST ? await measuredHost('ext4') : folderHere()

// One for each device, since what is cached of a file slows down whoever goes past the cache.
const files = ['mapFile', ...Object.keys(LOSETUP)].map((_, index) => `${folder}/file-${index}`)
for (const file of files)
  sh(`dd if=/dev/urandom of=${quoted(file)} bs=1M count=${SIZE >> 20} conv=fsync`)
const uncache = (file: string): string =>
  sh(`dd of=${quoted(file)} oflag=nocache conv=notrunc,fdatasync count=0`)

const attached: string[] = []
const detach = (): void => {
  for (const path of attached.splice(0)) sh(`losetup -d ${path}`)
}
process.prependOnceListener('exit', detach)

function attach(name: string, file: string) {
  const path = sh(`losetup ${LOSETUP[name]} --show -f ${quoted(file)}`).trim()
  attached.push(path)
  return { name, path }
}

/** Rounds with the files in one order. */
async function roundsOf(
  workload: Record<string, string | number>,
  [first = '', ...others]: readonly string[],
): Promise<Record<string, Measured>[]> {
  files.forEach(uncache)
  await using device = await mapFile(first, { backend: 'loop', name: 'bench' })
  const losetups = Object.keys(LOSETUP).map((name, index) => attach(name, others[index] ?? ''))
  try {
    return compare([{ name: 'mapFile', path: device.path }, ...losetups], workload)
  } finally {
    detach()
  }
}

/** As many orders as there are files: each device has each of them once, for no two lie on the disk alike. */
const orders = files.map((_, index) => [...files.slice(index), ...files.slice(0, index)])

const rows: Row[] = []
for (const [workload, options] of Object.entries(WORKLOADS)) {
  const rounds: Record<string, Measured>[] = []
  for (const order of orders) rounds.push(...(await roundsOf(options, order)))
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
remove()
