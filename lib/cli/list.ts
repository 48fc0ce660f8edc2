import type { MappedDevice } from '../index.js'
import { STATUS } from './status.js'
import { deviceJson, jsonText, type ListJson } from './json.js'
import { alignColumns, printable, shortBytes } from './text.js'
import { defineVerb } from './verb.js'

export const list = defineVerb({
  name: 'list',
  operands: '[NAME|DEVICE|FILE ...]',
  count: [0, Infinity],
  summary: 'list the mappings of this machine, or those that are named',
  details:
    'Partitions follow their device. A column without a value has a hyphen. Files whose device was removed by someone else are released, as after a deferred unmap.',
  examples: ['dmloop list', 'dmloop list --json | jq -r ".mappings[].path"'],
  options: ['bytes', 'noheadings'],
  async run({ operands, values, json, screen, dmloop }) {
    const mappings =
      operands.length === 0
        ? await dmloop.listMappings()
        : await Promise.all(operands.map((operand) => dmloop.openMapping(operand)))
    const document: ListJson = { mappings: mappings.map(deviceJson) }
    if (json) {
      screen.print(jsonText(document))
      return STATUS.done
    }
    const size = values.bytes ? String : shortBytes
    const rows = mappings.flatMap((mapping) => rowsOf(mapping, size))
    if (rows.length > 0) screen.print(alignColumns(values.noheadings ? rows : [HEADINGS, ...rows]))
    return STATUS.done
  },
})

const HEADINGS = ['NAME', 'PATH', 'SIZE', 'RO', 'BACKEND', 'SEGMENTS', 'FILES']

/** The row of a mapping, and those of its partitions. */
function rowsOf(mapping: MappedDevice, size: (bytes: number) => string): string[][] {
  const { name, path, readOnly, backend, segmentCount, files, partitions } = mapping
  const ro = readOnly ? '1' : '0'
  const own = [name, path, size(mapping.size), ro, backend, String(segmentCount)]
  return [
    [...own, files.length === 0 ? '-' : files.map(printable).join(', ')],
    ...partitions.map((each) => [
      `${name}:${each.number}`,
      ...[each.path, size(each.size), ro, '-', '-'],
      printable(each.name ?? each.type ?? '-'),
    ]),
  ]
}
