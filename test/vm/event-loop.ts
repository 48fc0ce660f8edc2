// The event loop runs on while a file of many extents is planned and mapped.
import { readFileSync } from 'node:fs'
import t from 'tap'
import { mapFile, planFile } from 'dmloop'
import { fragmentedFile, makeHost, oneSegment, scaled } from './lab.js'

const EXTENTS = scaled(100_000, 50_000)
/** Milliseconds. */
const LATEST = 50

/**
 * The guest has one processor and a kernel that does not preempt itself: while the kernel loads or frees
 * a table for another thread, or for another process, every timer waits, and the scheduler's clock jumps by
 * as much for whichever thread runs next. So what the event loop does itself is measured by the time
 * that its thread spends in user mode. How late a timer is counts for a plan alone: there the kernel
 * works a part at a time. The machine is shared and of any speed, so the best of several runs counts.
 */
const RUNS = 5

interface Delay {
  /** Milliseconds that the timer was late, at worst. */
  late: number
  /** Milliseconds that the event loop's thread spent in user mode between two ticks, at worst. */
  busy: number
}

/** The user time of the main thread in milliseconds (utime in proc_pid_stat(5), in 1/100 s). */
const ownTime = (): number =>
  Number(
    readFileSync(`/proc/self/task/${process.pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[11],
  ) * 10

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

const delays: Record<'plan' | 'map' | 'unmap', Delay[]> = { plan: [], map: [], unmap: [] }
for (let run = 0; run < RUNS; run++) {
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
const list = (runs: Delay[], what: keyof Delay): string =>
  runs.map((run) => run[what].toFixed(0)).join(', ')
for (const [call, runs] of Object.entries(delays)) {
  const late = `${call}: the timer was late by ${list(runs, 'late')} ms`
  if (call === 'plan') t.ok(best(runs, 'late') <= LATEST, late)
  else t.comment(late)
  t.ok(best(runs, 'busy') <= LATEST, `${call}: the event loop was busy ${list(runs, 'busy')} ms`)
}
host.remove()
