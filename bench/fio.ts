// fio, as dm-loop's author has run it: what several devices do under one workload, in turn.
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { sh } from '../test/vm/lab.js'
import { PAIRS } from './measure.js'

const RANDOM = { rw: 'randrw', bs: '4k' }

/** The options of fio for each. */
export const WORKLOADS: Record<string, Record<string, string | number>> = {
  'psync × 1': { ...RANDOM, ioengine: 'psync', numjobs: 1 },
  'psync × 12': { ...RANDOM, ioengine: 'psync', numjobs: 12 },
  'psync × 16': { ...RANDOM, ioengine: 'psync', numjobs: 16 },
  'libaio × 12, depth 16': { ...RANDOM, ioengine: 'libaio', numjobs: 12, iodepth: 16 },
  '1 MiB read': { rw: 'read', bs: '1m', ioengine: 'psync', numjobs: 1 },
}

const FOLDER = '/tmp/fio'
const JOBS = `${FOLDER}/jobs`
const OUTPUT = `${FOLDER}/output`
const CLOCK = `${FOLDER}/clock`

/** Each job is a section; one begins when the one before it has ended. */
const section = (name: string, options: Record<string, string | number>): string =>
  [`[${name}]`, 'stonewall', ...Object.entries(options).map((pair) => pair.join('='))].join('\n')

const NOTHING = { ioengine: 'null', size: '4k' }

/** Writes down how long the processors have been idle by now. */
const LOOK = section('look', { ...NOTHING, exec_prerun: `head -n1 /proc/stat | tee -a ${CLOCK}` })

/** What lies between two looks besides a run: fio waits a while before it begins the next job. */
const PAUSE = `${LOOK}\n${section('pause', NOTHING)}`

// Threads, and hardly any looking at the clock: what fio itself takes is the same for all devices, and
// would bring them closer together.
const COMMON = `[global]\ndirect=1\nthread\ngroup_reporting\nnorandommap\ngtod_reduce=1\nsize=128m`

export interface Measured {
  /** MiB/s, read and written together. */
  speed: number
  /** The part of all processors' time in which they had nothing to do. */
  idle: number
}

interface Output {
  jobs: { jobname: string; error: number; read: { bw: number }; write: { bw: number } }[]
}

interface Ticks {
  idle: number
  all: number
}

/** What passed between each look and the next one. */
function ticksBetweenLooks(): Ticks[] {
  const looks = readFileSync(CLOCK, 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).slice(1, 9).map(Number))
  return looks.slice(1).map((look, index) => {
    const passed = look.map((ticks, kind) => ticks - (looks[index]?.[kind] ?? NaN))
    const [, , , idle = NaN, waiting = NaN] = passed
    return { idle: idle + waiting, all: passed.reduce((sum, ticks) => sum + ticks, 0) }
  })
}

/** Rounds of what each of so many runs leaves idle; every round begins with a pause, which is not theirs. */
function idleParts(runs: number): number[][] {
  const ticks = ticksBetweenLooks()
  return Array.from({ length: PAIRS }, (_, round) => {
    const [pause = { idle: NaN, all: NaN }, ...rest] = ticks.slice(
      round * (runs + 1),
      (round + 1) * (runs + 1),
    )
    return rest.map(({ idle, all }) => Math.max(0, (idle - pause.idle) / (all - pause.all)))
  })
}

/** Every device in every round, and a round begins with another device each time. */
function turns<T extends { name: string }>(devices: readonly T[]): T[][] {
  return Array.from({ length: PAIRS }, (_, round) => {
    const first = round % devices.length
    return [...devices.slice(first), ...devices.slice(0, first)]
  })
}

/** Rounds of what each device does, by its name; one process runs them all, for its start takes longer. */
export function compare(
  devices: readonly { name: string; path: string }[],
  workload: Record<string, string | number>,
): Record<string, Measured>[] {
  rmSync(FOLDER, { recursive: true, force: true })
  sh(`mkdir ${FOLDER}; sync`)
  const rounds = turns(devices)
  const sections = rounds.flatMap((round) => [
    PAUSE,
    ...round.flatMap(({ name, path }) => [
      LOOK,
      section(name, { ...workload, filename: path, time_based: 1, runtime: '500ms' }),
    ]),
  ])
  writeFileSync(JOBS, [COMMON, ...sections, LOOK, ''].join('\n'))
  sh(`cd ${FOLDER} && fio --output-format=json --output=${OUTPUT} ${JOBS}`)
  // What it says of the looks comes before.
  const said = readFileSync(OUTPUT, 'utf8')
  const { jobs } = JSON.parse(said.slice(said.indexOf('{'))) as Output
  const names = devices.map(({ name }) => name)
  const done = jobs.filter(({ jobname }) => names.includes(jobname))
  return idleParts(devices.length).map((idle, round) =>
    Object.fromEntries(
      idle.map((part, index) => {
        const job = done[round * devices.length + index]
        if (job?.error !== 0) throw new Error(`fio failed on ${job?.jobname ?? 'a device'}`)
        return [job.jobname, { speed: (job.read.bw + job.write.bw) / 1024, idle: part }]
      }),
    ),
  )
}
