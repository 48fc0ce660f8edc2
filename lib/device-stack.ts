// The devices beneath a filesystem, and a file's segments seen through them.
import debug from 'debug'
import { isSystemError, problem, type Problem } from './errors.js'
import { native, result, type DmTable, type Layer } from './native.js'
import { SegmentTable } from './segments.js'
import { kernelName, mapperName, parseDevice } from './sysfs.js'

const log = debug('dmloop:device-stack')

/** "sda1", or 'dm-3 "vg-root"'. */
async function describe(device: string): Promise<string> {
  const name = (await kernelName(device)) ?? device
  const mapped = await mapperName(device)
  return mapped === undefined ? name : `${name} "${mapped}"`
}

/** A layer that only translates addresses: all of its targets are linear (or zero). */
const isTranslation = (table: DmTable): boolean => table.others.length === 0

/** The live table of a device, if it is device-mapper's. */
async function tableOf(device: string): Promise<DmTable | undefined> {
  if ((await mapperName(device)) === undefined) return undefined
  return result(native.dmTable(parseDevice(device), false), device)
}

/** A layer that leaves a device's addresses as they are. */
const identity = (number: number): Layer => ({
  rows: Float64Array.of(0, Number.MAX_SAFE_INTEGER, 0, 0),
  devices: [number],
})

/**
 * Takes segments down one layer, wherever the device beneath is a translation. Undefined when none is.
 */
async function descend(segments: SegmentTable): Promise<SegmentTable | undefined> {
  const lower: string[] = []
  const numberOf = (device: string): number => {
    const found = lower.indexOf(device)
    return found === -1 ? lower.push(device) - 1 : found
  }
  const layers: Layer[] = []
  let translated = false
  for (const device of segments.devices) {
    const table = await tableOf(device)
    if (table && isTranslation(table)) {
      translated = true
      layers.push({ rows: table.rows, devices: table.devices.map(numberOf) })
    } else {
      layers.push(identity(numberOf(device)))
    }
  }
  if (!translated) return undefined
  const { rows, devices } = await result(native.translate(segments.packed, layers))
  return new SegmentTable(
    rows,
    devices.map((number) => lower[number] as string),
  )
}

/**
 * Segments on the filesystem's device, taken down through every layer that only translates. At least
 * one such layer must lie between, because the filesystem holds the device that it is mounted on:
 * only what is beneath that is device-mapper's to share (FACTS section 2).
 */
export async function takeDown(
  segments: SegmentTable,
  filesystem: { device: string; file: string },
): Promise<SegmentTable | Problem> {
  const { device, file } = filesystem
  try {
    let lower = await descend(segments)
    if (lower === undefined) return await notBeneath(device, file)
    for (let next: typeof lower | undefined = lower; next !== undefined;) {
      lower = next
      next = await descend(lower)
    }
    log('%s: %d segments on %o', device, lower.length, lower.devices)
    return lower
  } catch (error) {
    if (!isUnreachable(error)) throw error
    return noDeviceMapper(error, file)
  }
}

/** Why nothing beneath a device can be mapped. */
async function notBeneath(device: string, file: string): Promise<Problem> {
  const table = await tableOf(device)
  const name = await describe(device)
  if (!table) {
    const detail = `lies on a filesystem straight on ${name}, which it holds itself`
    return problem('DMLOOP_DEVICE_CLAIMED', { file }, detail)
  }
  const targets = [...new Set(table.others.map((other) => other.target))].join(', ')
  const detail = `lies on ${name} (${targets}), which is more than a translation of addresses`
  return problem('DMLOOP_OPAQUE_DEVICE', { file }, detail)
}

/** Whether device-mapper's control device is missing or closed to this process. */
export const isUnreachable = (error: unknown): boolean =>
  (isSystemError(error, 'ENOENT', 'ENODEV', 'ENXIO') && error.syscall === 'open') ||
  isSystemError(error, 'EACCES', 'EPERM')

export function noDeviceMapper(cause: unknown, file?: string): Problem {
  const why = cause instanceof Error ? `: ${cause.message}` : ''
  return problem('DMLOOP_NO_DEVICE_MAPPER', { file }, `device-mapper cannot be reached${why}`)
}
