// A device and its underlying devices, in words:
// dm-3 "vg-root" (linear, 3 segments) on sda3 and sdb1.
import { readdir } from 'node:fs/promises'
import { native, result, type DmTable } from './native.js'
import { SEGMENT_COLUMNS } from './segments.js'
import { kernelName, mapperName, parseDevice, readText } from './sysfs.js'

/** A target's name by the number that packed segments have for it (native/segments.h). */
const TARGETS: Record<number, string> = { [-1]: 'zero', [-3]: 'striped' }

/** The targets of a table, each once. */
export function targetsOf({ rows, others }: DmTable): string[] {
  const names = new Set(others.map(({ target }) => target))
  for (let row = 2; row < rows.length; row += SEGMENT_COLUMNS) {
    const device = rows[row] as number
    const name = device >= 0 ? 'linear' : TARGETS[device]
    if (name !== undefined) names.add(name)
  }
  return [...names]
}

async function kindOf(device: string): Promise<string | undefined> {
  const folder = `/sys/dev/block/${device}`
  if ((await mapperName(device)) !== undefined) {
    const table = await result(native.dmTable(parseDevice(device), false), device)
    const count = table.rows.length / SEGMENT_COLUMNS
    return `${targetsOf(table).join(', ')}, ${count} ${count === 1 ? 'segment' : 'segments'}`
  }
  const level = await readText(`${folder}/md/level`)
  if (level !== undefined) return `md ${level}`
  const file = await readText(`${folder}/loop/backing_file`)
  return file === undefined ? undefined : `backed by ${file}`
}

async function describeOne(device: string): Promise<string> {
  const [name = device, mapped, kind] = await Promise.all([
    kernelName(device),
    mapperName(device),
    kindOf(device),
  ])
  const quoted = mapped === undefined ? '' : ` "${mapped}"`
  return `${name}${quoted}${kind === undefined ? '' : ` (${kind})`}`
}

/** The devices that a device is made of, as "major:minor". */
export async function underlyingDevices(device: string): Promise<string[]> {
  const names = await readdir(`/sys/dev/block/${device}/slaves`).catch(() => [])
  const numbers = await Promise.all(names.map((name) => readText(`/sys/class/block/${name}/dev`)))
  return numbers.filter((number) => number !== undefined)
}

/** Level by level, from the device down. */
export async function describeStack(device: string): Promise<string> {
  const levels: string[] = []
  for (let devices = [device]; devices.length > 0;) {
    const names = await Promise.all(devices.map(describeOne))
    levels.push(names.join(' and '))
    devices = [...new Set((await Promise.all(devices.map(underlyingDevices))).flat())]
  }
  return levels.join(' on ')
}
