// Between logical partition metadata as an object and its tables, whose entries refer to one another by index.
import { attributeBits, attributesOf, LINEAR, SLOT_SUFFIXED, ZERO } from './lp-codes.js'
import { notRepresentable } from './lp-errors.js'
import type { LpExtent, LpMetadata, LpPartition } from './lp-model.js'
import type { LpTables } from './lp-tables.js'

type Described = Pick<LpMetadata, 'blockDevices' | 'groups' | 'partitions'>

const toFlags = (slotSuffixed: boolean): number => (slotSuffixed ? SLOT_SUFFIXED : 0)
const fromFlags = (flags: number): boolean => (flags & SLOT_SUFFIXED) !== 0

/** The tables, with each partition's extents after those of the one before. */
export function toTables({ blockDevices, groups, partitions }: Described): LpTables {
  const extents = partitions.flatMap((partition) => partition.extents.map(toEntry))
  let firstExtent = 0
  return {
    partitions: partitions.map(({ name, attributes, group, extents }) => {
      const entry = {
        name,
        attributes: attributeBits(attributes),
        firstExtent,
        extentCount: extents.length,
        group: groupIndex(groups, group, name),
      }
      firstExtent += extents.length
      return entry
    }),
    extents,
    groups: groups.map(({ name, slotSuffixed, maximumSize }) => ({
      name,
      flags: toFlags(slotSuffixed),
      maximumSize,
    })),
    blockDevices: blockDevices.map(({ slotSuffixed, ...device }) => ({
      ...device,
      flags: toFlags(slotSuffixed),
    })),
  }
}

const toEntry = (extent: LpExtent): LpTables['extents'][number] =>
  extent.target === 'linear'
    ? { sectors: extent.sectors, type: LINEAR, start: extent.start, device: extent.device }
    : { sectors: extent.sectors, type: ZERO, start: 0, device: 0 }

function groupIndex(groups: LpMetadata['groups'], group: string, partition: string): number {
  const index = groups.findIndex(({ name }) => name === group)
  if (index >= 0) return index
  const found = `partition ${JSON.stringify(partition)} is in the group ${JSON.stringify(group)}, which is not there`
  throw notRepresentable(found, 'Add the group, or name one that is there.')
}

/** What tables without faults describe. */
export const fromTables = (tables: LpTables): Described => ({
  blockDevices: tables.blockDevices.map(({ flags, ...device }) => ({
    ...device,
    slotSuffixed: fromFlags(flags),
  })),
  groups: tables.groups.map(({ name, flags, maximumSize }) => ({
    name,
    slotSuffixed: fromFlags(flags),
    maximumSize,
  })),
  partitions: tables.partitions.map((entry): LpPartition => {
    const { name, attributes, group, firstExtent, extentCount } = entry
    return {
      name,
      attributes: attributesOf(attributes),
      group: tables.groups[group]?.name ?? '',
      extents: tables.extents.slice(firstExtent, firstExtent + extentCount).map(fromEntry),
    }
  }),
})

const fromEntry = ({ type, sectors, device, start }: LpTables['extents'][number]): LpExtent =>
  type === LINEAR ? { target: 'linear', sectors, device, start } : { target: 'zero', sectors }
