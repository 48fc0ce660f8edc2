// fio, as dm-loop's author has run it: what several devices do under one workload, in turn.
import { cpus } from 'node:os'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { quoted, sh } from '../test/shell.js'
import { folderHere } from './host.js'
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

const { path: FOLDER } = folderHere()
const JOBS = `${FOLDER}/jobs`
const OUTPUT = `${FOLDER}/output`
const CLOCK = `${FOLDER}/clock`

/** A job, which begins when all before it have ended. */
const section = (name: string, options: Record<string, string | number>): string =>
  [`[${name}]`, 'stonewall', ...Object.entries(options).map((pair) => pair.join('='))].join('\n')

/** Only records how long the processors have been busy so far. */
const LOOK = section('look', {
  ioengine: 'null',
  size: '4k',
  exec_prerun: `head -n1 /proc/stat | tee -a ${quoted(CLOCK)}`,
})

// Threads, and hardly any looking at the clock: what fio itself takes is the same for all devices, and
// would bring them closer together.
const COMMON = `[global]\ndirect=1\nthread\ngroup_reporting\nnorandommap\ngtod_reduce=1\nsize=128m`

export interface Measured {
  /** MiB/s, read and written together. */
  speed: number
  /** The part of all processors' time in which they had nothing to do, at least. */
  idle: number
}

interface Direction {
  /** KiB/s. */
  bw: number
  /** Milliseconds. */
  runtime: number
}

interface Output {
  jobs: { jobname: string; error: number; read: Direction; write: Direction }[]
}

/** Seconds of all processors together that were not idle, between each look and the next one. */
function busyBetweenLooks(): number[] {
  const busy = readFileSync(CLOCK, 'utf8')
    .trim()
    .split('\n')
    .map((line) => {
      const [user = NaN, nice = NaN, system = NaN, , , ...others] = line
        .trim()
        .split(/\s+/)
        .slice(1, 9)
        .map(Number)
      // In hundredths, whatever the kernel's own clock is (proc(5): USER_HZ).
      return [user, nice, system, ...others].reduce((sum, ticks) => sum + ticks, 0) / 100
    })
  return busy.slice(1).map((seconds, index) => seconds - (busy[index] ?? NaN))
}

/**
 * All that was busy from look to look counts as the job's, what it takes to look as well; fio's own
 * idling before and after the job does not.
 */
function measured({ read, write }: Output['jobs'][number], busy: number): Measured {
  const seconds = Math.max(read.runtime, write.runtime) / 1000
  return {
    speed: (read.bw + write.bw) / 1024,
    idle: Math.max(0, 1 - busy / (seconds * cpus().length)),
  }
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
  rmSync(CLOCK, { force: true })
  sh('sync')
  const rounds = turns(devices)
  const sections = rounds
    .flat()
    .flatMap(({ name, path }) => [
      LOOK,
      section(name, { ...workload, filename: path, time_based: 1, runtime: '500ms' }),
    ])
  writeFileSync(JOBS, [COMMON, ...sections, LOOK, ''].join('\n'))
  sh(`cd ${quoted(FOLDER)} && fio --output-format=json --output=${quoted(OUTPUT, JOBS)}`)
  // What it says of the looks comes before.
  const said = readFileSync(OUTPUT, 'utf8')
  const { jobs } = JSON.parse(said.slice(said.indexOf('{'))) as Output
  const busy = busyBetweenLooks()
  const runs = jobs
    .filter(({ jobname }) => jobname !== 'look')
    .map((job, index) => {
      if (job.error !== 0) throw new Error(`fio: error ${job.error} on ${job.jobname}`)
      return [job.jobname, measured(job, busy[index] ?? NaN)] as const
    })
  return rounds.map((_, round) =>
    Object.fromEntries(runs.slice(round * devices.length, (round + 1) * devices.length)),
  )
}
