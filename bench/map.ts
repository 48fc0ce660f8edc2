// From a file to a device and back: mapFile against what a shell script would do, against dmsetup with a
// ready table, against losetup, and against C that loads a ready table: the floor, alone and with the extents read
// before and after that.
import { writeFileSync } from 'node:fs'
import { planFile } from 'dmloop'
import { sh } from '../test/shell.js'
import { fragmentedHost } from './files.js'
import { mapTimes } from './map-times.js'
import { floor, keep, milliseconds, PAIRS, report, spread } from './measure.js'
import type { Row } from './results.js'

/** The extents as a table, as people write it: filefrag prints blocks of 512 bytes with -b512. */
const SCRIPT = (file: string): string =>
  `filefrag -b512 -v ${file} |
   awk '{ gsub(/[.:]+/, " ") } $1 ~ /^[0-9]+$/ { print $2, $6, "linear 1:0", $4 }' |
   dmsetup create bench`
const TITLE = 'From a file to a device, and back'
const TABLE = '/tmp/table'
const REMOVE = 'dmsetup remove --retry bench'

/** Runs a command that makes a device of so many segments, and takes it away outside of the measurement. */
async function shell(command: string, segments: number): Promise<number> {
  const time = await milliseconds(() => sh(command))
  const made = Number(/targets:\s+(\d+)/.exec(sh('dmsetup info bench'))?.[1])
  if (made !== segments) throw new Error(`${command}: made ${made} segments of ${segments}`)
  sh(REMOVE)
  return time
}

async function losetup(file: string): Promise<number> {
  const time = await milliseconds(() => sh(`losetup --direct-io=on -f ${file}`))
  sh('losetup -D')
  return time
}

const rows: Row[] = []
for (const size of [1, 1000, 100_000, 500_000]) {
  const host = await fragmentedHost(size)
  const { file } = host
  const { segments } = await planFile(file)
  writeFileSync(TABLE, segments.toTable())
  const times: number[] = []
  const columns = ['floor', 'reads', 'script', 'ready', 'losetup', 'unverified', 'unmap'] as const
  const ratios = Object.fromEntries(columns.map((column) => [column, [] as number[]])) as Record<
    (typeof columns)[number],
    number[]
  >
  for (let pair = 0; pair < PAIRS; pair++) {
    const [time, unmap] = await mapTimes(file, { verify: 'sample' })
    ratios.floor.push(time / floor('map', 'bench', TABLE))
    const remove = await milliseconds(() => sh(REMOVE))
    ratios.reads.push(time / floor('map', 'bench', TABLE, file))
    sh(REMOVE)
    times.push(time)
    ratios.script.push(time / (await shell(SCRIPT(file), segments.length)))
    ratios.ready.push(time / (await shell(`dmsetup create bench ${TABLE}`, segments.length)))
    ratios.losetup.push(time / (await losetup(file)))
    ratios.unverified.push((await mapTimes(file, { verify: 'none' }))[0] / time)
    ratios.unmap.push(unmap / remove)
  }
  rows.push({
    segments: segments.length,
    'mapFile, ms': Number(spread(times).median.toFixed(1)),
    'call / floor': spread(ratios.floor),
    'call / floor that reads twice': spread(ratios.reads),
    'call / filefrag | awk | dmsetup': spread(ratios.script),
    'call / dmsetup, ready table': spread(ratios.ready),
    'call / losetup': spread(ratios.losetup),
    'verify: none / sample': spread(ratios.unverified),
    'unmap / dmsetup remove': spread(ratios.unmap),
  })
  host.remove()
  // The largest takes an emulated processor so long that somebody may stop it.
  keep('map', TITLE, rows)
}
report('map', TITLE, rows)
