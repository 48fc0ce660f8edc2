// From a file to a device: mapFile against what a shell script would do. Every figure is a ratio of two
// runs one after the other, because the machine beneath may be shared: the median of the pairs, and
// their range.
import { release } from 'node:os'
import { mapFile } from 'dmloop'
import { fragmentedFile, makeHost, oneSegment, sh } from '../test/vm/lab.js'

const PAIRS = 7
const SIZES = [1, 1000, 20_000]

/** The extents as a table, as people write it: filefrag prints blocks of 512 bytes with -b512. */
const SCRIPT = (file: string): string =>
  `filefrag -b512 -v ${file} | awk -F'[ .:]+' '/^ +[0-9]+:/ { print $3, $7, "linear 1:0", $5 }' |
   dmsetup create bench`

async function milliseconds(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await work()
  return performance.now() - start
}

/** Runs a command that makes a device named bench, and removes the device outside the measurement. */
async function shell(command: string, input?: string): Promise<number> {
  const time = await milliseconds(() => Promise.resolve(sh(command, input)))
  sh('dmsetup remove --retry bench')
  return time
}

async function ours(file: string, verify: 'sample' | 'none'): Promise<number> {
  let unmap = (): Promise<void> => Promise.resolve()
  const time = await milliseconds(async () => {
    const device = await mapFile(file, { name: 'bench', verify })
    unmap = () => device.unmap()
  })
  await unmap()
  return time
}

function summary(ratios: number[]): string {
  const sorted = ratios.toSorted((a, b) => a - b)
  const [least, median, most] = [sorted[0], sorted[sorted.length >> 1], sorted.at(-1)] as number[]
  return `${median?.toFixed(2)} (${least?.toFixed(2)} to ${most?.toFixed(2)})`
}

const host = makeHost('xfs', oneSegment(), { name: 'host' })
console.log(`Linux ${release()}, xfs on dm-linear on a ram disk, ${PAIRS} pairs each`)
console.log('time of mapFile over that of the other; below 1 is faster\n')
console.log('segments  mapFile, ms  filefrag | awk | dmsetup  dmsetup, ready table  without verify')
for (const [index, size] of SIZES.entries()) {
  const file = `${host.path}/image-${index}`
  fragmentedFile(file, Math.max(size, 64) * 4096, size, index)
  const device = await mapFile(file, { name: 'bench' })
  const segments = device.segmentCount
  const table = sh('dmsetup table bench')
  await device.unmap()

  const times: number[] = []
  const ratios = { script: [] as number[], ready: [] as number[], unverified: [] as number[] }
  for (let pair = 0; pair < PAIRS; pair++) {
    const time = await ours(file, 'sample')
    times.push(time)
    ratios.script.push(time / (await shell(SCRIPT(file))))
    ratios.ready.push(time / (await shell('dmsetup create bench', table)))
    ratios.unverified.push((await ours(file, 'none')) / time)
  }
  const typical = times.toSorted((a, b) => a - b)[PAIRS >> 1] ?? 0
  const cells = [segments, typical.toFixed(0), ...Object.values(ratios).map(summary)]
  const widths = [8, 11, 24, 20, 14]
  console.log(cells.map((cell, at) => String(cell).padStart(widths[at] ?? 0)).join('  '))
}
host.remove()
