// What others on the same filesystem notice of a mapping: the worst latency of fio while a file is mapped and
// unmapped all the time, without a fence and with one.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { mapFile } from 'dmloop'
import { fragmentedFile, randomFile, sh, wrappedHost } from '../test/vm/lab.js'
import { folderHere } from './host.js'
import { PAIRS, report, spread } from './measure.js'
import type { Row } from './results.js'

const SECONDS = 4

const host = await wrappedHost('ext4')
const files = { 1: `${host.path}/one`, 10_000: `${host.path}/many` }
sh(`fallocate -l 128M ${host.path}/busy`)
randomFile(files[1], 4 << 20)
fragmentedFile(files[10_000], 128 << 20, 10_000, 1)
const { path: folder } = folderHere()
const OUTPUT = `${folder}/output`

interface Output {
  jobs: { write: { lat_ns: { max: number } } }[]
}

/** Milliseconds that the slowest of one thread's synchronous writes takes while something is done over and over. */
async function worstLatency(work: () => Promise<void>): Promise<number> {
  const words = `--name=busy --filename=${host.path}/busy --size=128m --direct=1 --rw=randwrite --bs=4k --thread
    --time_based --runtime=${SECONDS} --output-format=json --output=${OUTPUT}`
  const fio = spawn('fio', words.split(/\s+/), { stdio: ['ignore', 'ignore', 'inherit'] })
  const ended = once(fio, 'close') as Promise<[number]>
  while (fio.exitCode === null && fio.signalCode === null) await work()
  const [status] = await ended
  if (status !== 0) throw new Error(`fio ended with ${status}`)
  const said = readFileSync(OUTPUT, 'utf8')
  const { jobs } = JSON.parse(said.slice(said.indexOf('{'))) as Output
  return (jobs[0]?.write.lat_ns.max ?? NaN) / 1e6
}

async function mapAndUnmap(file: string, fence: boolean): Promise<void> {
  const device = await mapFile(file, { name: 'bench', fence, verify: 'none' })
  await device.unmap()
}

const rest = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 100))

const rows: Row[] = []
for (const [segments, file] of Object.entries(files)) {
  const [idle, plain, fenced]: [number[], number[], number[]] = [[], [], []]
  for (let round = 0; round < PAIRS; round++) {
    idle.push(await worstLatency(rest))
    plain.push(await worstLatency(() => mapAndUnmap(file, false)))
    fenced.push(await worstLatency(() => mapAndUnmap(file, true)))
  }
  const ratios = fenced.map((worst, round) => worst / (plain[round] ?? NaN))
  rows.push({
    segments,
    'worst latency at rest, ms': spread(idle),
    'while it is mapped and unmapped, ms': spread(plain),
    'with a fence, ms': spread(fenced),
    'with / without': spread(ratios),
  })
}
host.remove()
report('fence', 'Others on the filesystem', rows)
