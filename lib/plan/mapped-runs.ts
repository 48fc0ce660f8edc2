// Which blocks of a device mappings have.
import { bothTables, listDevices } from '../kernel/device-mapper.js'
import { native } from '../kernel/native.js'
import { SECTOR, type SegmentTable } from '../kernel/segments.js'
import { resolveStack } from './device-stack.js'
import { identityOf } from './names.js'
import { resolveExtents } from './overlap.js'
import { mergeRuns, type SectorRun } from './wrapper-table.js'

/** Those of some runs of a device ("major:minor") that have a block of a mapping, live or being made. */
export async function mappedRuns(device: string, runs: readonly SectorRun[]): Promise<SectorRun[]> {
  if (runs.length === 0) return []
  const stored = [...(await whereStored(device, runs))]
  const mapped = await mappedPlaces()
  let next = 0
  let end = 0
  return runs.filter(({ length }) => {
    const start = end
    end += length
    let found = false
    for (; next < stored.length; next++) {
      const segment = stored[next]
      if (!segment || segment.start >= end) break
      const from = Math.max(start, segment.start) - segment.start
      const to = Math.min(end, segment.start + segment.length) - segment.start
      const places = mapped.get(segment.device ?? '') ?? []
      const offset = segment.offset ?? 0
      found ||= hasPlace(places, offset + from, offset + to)
      if (segment.start + segment.length > end) break
    }
    return found
  })
}

/** Where runs, end to end, are stored on the devices at the bottom of the stack. */
async function whereStored(device: string, runs: readonly SectorRun[]): Promise<SegmentTable> {
  let length = 0
  const rows = runs.flatMap((run) => {
    const row = [length, run.start * SECTOR, run.length * SECTOR, 0]
    length += run.length * SECTOR
    return row
  })
  const extents = native.packExtents(Float64Array.from(rows))
  return await resolveExtents({ extents, offset: 0, length }, await resolveStack(device))
}

/** The sectors that mappings have of each device, in its order. */
async function mappedPlaces(): Promise<Map<string, SectorRun[]>> {
  const places = new Map<string, SectorRun[]>()
  for (const mapping of await listDevices()) {
    if (identityOf(mapping.uuid) === undefined) continue
    for (const table of await bothTables(mapping)) {
      for (const { device, offset, length } of table) {
        if (device === undefined || offset === undefined) continue
        const found = places.get(device)
        if (found) found.push({ start: offset, length })
        else places.set(device, [{ start: offset, length }])
      }
    }
  }
  return new Map([...places].map(([device, runs]) => [device, mergeRuns(runs)]))
}

/** Whether one of some places, in the order of the device, has a sector of a range. */
function hasPlace(places: readonly SectorRun[], from: number, to: number): boolean {
  let low = 0
  let high = places.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((places[middle] as SectorRun).start < to) low = middle + 1
    else high = middle
  }
  const last = places[low - 1]
  return last !== undefined && last.start + last.length > from
}
