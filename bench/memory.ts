// What a call of planFile and mapFile costs the process besides time: memory, and the event loop's turn.
import { mapFile, planFile } from 'dmloop'
import { fragmentedHost } from './files.js'
import { keep, PAIRS, report, spread } from './measure.js'
import { watchMemory } from './resident.js'
import type { Row } from './results.js'

const TITLE = 'What a call costs the process'
const MEBIBYTE = 1 << 20

async function cost<T>(work: () => Promise<T>): Promise<{ value: T; rss: number; late: number }> {
  const peak = watchMemory()
  let late = 0
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    late = Math.max(late, now - last - 1)
    last = now
  }, 1)
  const value = await work()
  clearInterval(timer)
  return { value, rss: peak(), late }
}

const rows: Row[] = []
for (const size of [1, 100_000, 1_000_000]) {
  const host = await fragmentedHost(size)
  const costs: Record<string, { rss: number[]; late: number[] }> = {}
  const note = (call: string, { rss, late }: { rss: number; late: number }): void => {
    const cost = (costs[call] ??= { rss: [], late: [] })
    cost.rss.push(rss / MEBIBYTE)
    cost.late.push(late)
  }
  let segments = 0
  for (let round = 0; round < PAIRS; round++) {
    note('planFile', await cost(() => planFile(host.file)))
    const map = await cost(() => mapFile(host.file, { name: 'bench' }))
    note('mapFile', map)
    note('unmap', await cost(() => map.value.unmap()))
    segments = map.value.segmentCount
  }
  for (const [call, { rss, late }] of Object.entries(costs)) {
    rows.push({
      segments,
      call,
      'peak RSS over idle, MiB': spread(rss),
      'worst timer delay, ms': spread(late),
    })
  }
  host.remove()
  // The largest takes an emulated processor so long that somebody may stop it.
  keep('memory', TITLE, rows)
}
report('memory', TITLE, rows)
