// The event loop runs on while a file of many extents is planned and mapped.
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import t from 'tap'
import { mapFile, planFile } from 'dmloop'
import { fragmentedFile, makeHost, oneSegment, scaled } from './lab.js'

const EXTENTS = scaled(100_000)
/** Milliseconds. */
const LATEST = 50

/**
 * The guest has one processor and a kernel that does not preempt itself: while the kernel loads a table
 * for another thread, or for another process, every timer waits. How long is measured with dmsetup,
 * which loads the same table in a process of its own; what the event loop does itself is measured
 * by the processor time of its thread. The machine beneath is shared and of any speed, so the best of
 * several runs counts, and where the kernel's own work is the measure, its median.
 */
const RUNS = 5

interface Delay {
  /** Milliseconds that the timer was late, at worst. */
  late: number
  /** Milliseconds of processor time that the event loop's thread took between two ticks, at worst. */
  busy: number
}

/** The processor time of the main thread in milliseconds (schedstat in proc(5); in steps of 10 here). */
const ownTime = (): number =>
  Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6

/** Runs `work` and returns its result with the worst delays of a 1 ms timer meanwhile. */
async function worstDelay<T>(work: () => Promise<T>): Promise<{ value: T; delay: Delay }> {
  const delay = { late: 0, busy: 0 }
  let last = performance.now()
  let lastOwn = ownTime()
  const tick = (): void => {
    const [now, nowOwn] = [performance.now(), ownTime()]
    delay.late = Math.max(delay.late, now - last - 1)
    delay.busy = Math.max(delay.busy, nowOwn - lastOwn)
    last = performance.now()
    lastOwn = nowOwn
  }
  const timer = setInterval(tick, 1)
  try {
    const value = await work()
    tick()
    return { value, delay }
  } finally {
    clearInterval(timer)
  }
}

const host = makeHost('xfs', oneSegment(), { name: 'host' })
const file = `${host.path}/image`
fragmentedFile(file, EXTENTS * 4096, EXTENTS, 1)

const table = (await planFile(file)).toTable()
writeFileSync('/tmp/table', table)
const load = 'dmsetup create other </tmp/table && dmsetup remove --retry other'

const delays: Record<'plan' | 'map' | 'unmap' | 'dmsetup', Delay[]> = {
  plan: [],
  map: [],
  unmap: [],
  dmsetup: [],
}
for (let run = 0; run < RUNS; run++) {
  delays.dmsetup.push((await worstDelay(() => promisify(execFile)('sh', ['-c', load]))).delay)
  const plan = await worstDelay(() => planFile(file))
  const map = await worstDelay(() => mapFile(file))
  const unmap = await worstDelay(() => map.value.unmap())
  t.ok(plan.value.segments.length > 0.95 * EXTENTS, `${plan.value.segments.length} segments`)
  t.equal(map.value.segmentCount, plan.value.segments.length)
  delays.plan.push(plan.delay)
  delays.map.push(map.delay)
  delays.unmap.push(unmap.delay)
}
const best = (runs: Delay[], what: keyof Delay): number => Math.min(...runs.map((run) => run[what]))
const median = (values: number[]): number =>
  values.sort((a, b) => a - b)[Math.floor(values.length / 2)] as number
const list = (runs: Delay[], what: keyof Delay): string =>
  runs.map((run) => run[what].toFixed(0)).join(', ')
/** Where the machine beneath stops a processor, its time runs on, and is the thread's: that shows here too. */
const others = (what: keyof Delay): number => median(delays.dmsetup.map((run) => run[what]))
t.comment(`dmsetup in another process: the timer was late by ${list(delays.dmsetup, 'late')} ms`)
for (const call of ['plan', 'map', 'unmap'] as const) {
  const limit = call === 'plan' ? LATEST : Math.max(LATEST, others('late'))
  const runs = delays[call]
  t.ok(best(runs, 'late') <= limit, `${call}: the timer was late by ${list(runs, 'late')} ms`)
  t.ok(
    best(runs, 'busy') <= Math.max(LATEST, others('busy')),
    `${call}: the event loop was busy ${list(runs, 'busy')} ms`,
  )
}
host.remove()
