// The table of a wrapper: the whole of another device, less a fence, whose sectors give errors.
import type { DmTable } from '../kernel/native.js'
import { SEGMENT_COLUMNS, SegmentTable } from '../kernel/segments.js'
import { wrappedBy } from './names.js'

/** Sectors, which have the same numbers on a wrapper and on the device that it wraps. */
export interface SectorRun {
  start: number
  length: number
}

/** Of a row that has the target `error`; see native/segments.h. */
const ERROR = -4

/** The table that wraps a device of so many sectors; `fence` is in the order of the device. */
export function wrapperTable(
  device: string,
  sectors: number,
  fence: readonly SectorRun[] = [],
): SegmentTable {
  const rows: number[] = []
  let start = 0
  const wrapUntil = (end: number): void => {
    if (end > start) rows.push(start, end - start, 0, start)
    start = end
  }
  for (const run of fence) {
    wrapUntil(run.start)
    rows.push(run.start, run.length, ERROR, 0)
    start += run.length
  }
  wrapUntil(sectors)
  return new SegmentTable(Float64Array.from(rows), [device])
}

/** The end of a table, in sectors. */
export function sectorsOf({ rows }: Pick<DmTable, 'rows'>): number {
  const [start = 0, length = 0] = rows.subarray(-SEGMENT_COLUMNS)
  return start + length
}

/**
 * The fence in a wrapper's table, in the order of the device; undefined for the table of another device, and for one
 * that somebody else has loaded.
 */
export function fenceOf({ rows, devices, others, device }: DmTable): SectorRun[] | undefined {
  const wrapped = wrappedBy(device.uuid)
  // Of a table that `dmsetup remove --force` has left, nothing is linear.
  if (wrapped === undefined || devices.length === 0) return undefined
  if (others.some(({ target }) => target !== 'error')) return undefined
  let errors = 0
  for (let row = 0; row < rows.length; row += SEGMENT_COLUMNS) {
    const [start, , number = -1, offset] = rows.subarray(row, row + SEGMENT_COLUMNS)
    if (devices[number] === wrapped && start === offset) continue
    if (number >= 0 || others[errors]?.start !== start) return undefined
    errors++
  }
  return others.map(({ start, length }) => ({ start, length }))
}

/** A wrapper's table without its fence, which changes no address; other tables as they are. */
export function withoutFence(table: DmTable): DmTable {
  const wrapped = wrappedBy(table.device.uuid)
  const fence = fenceOf(table)
  if (wrapped === undefined || fence === undefined || fence.length === 0) return table
  const rows = Float64Array.of(0, sectorsOf(table), 0, 0)
  return { ...table, rows, devices: [wrapped], others: [] }
}

/** Runs in the order of the device, those that overlap made into one. */
export function mergeRuns(runs: readonly SectorRun[]): SectorRun[] {
  const merged: SectorRun[] = []
  for (const { start, length } of [...runs].sort((a, b) => a.start - b.start)) {
    const last = merged.at(-1)
    const end = last ? last.start + last.length : -1
    if (last && start < end) last.length = Math.max(end, start + length) - last.start
    else merged.push({ start, length })
  }
  return merged
}

/** What of some runs is in none of others; both in the order of the device, and without overlaps. */
export function subtractRuns(
  runs: readonly SectorRun[],
  others: readonly SectorRun[],
): SectorRun[] {
  const left: SectorRun[] = []
  let next = 0
  for (const run of runs) {
    const end = run.start + run.length
    let start = run.start
    for (; next < others.length; next++) {
      const other = others[next] as SectorRun
      if (other.start >= end) break
      if (other.start > start) left.push({ start, length: other.start - start })
      start = Math.max(start, other.start + other.length)
      if (start >= end) break
    }
    if (start < end) left.push({ start, length: end - start })
  }
  return left
}
