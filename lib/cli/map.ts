import type { MappedDevice, Problem } from '../index.js'
import { problemText } from './failures.js'
import { deviceJson, jsonText } from './json.js'
import { PLAN_OPTIONS } from './options.js'
import { STATUS } from './status.js'
import { defineVerb, longCall, type Call } from './verb.js'

export const map = defineVerb({
  name: 'map',
  operands: 'FILE ...',
  count: [1, Infinity],
  summary: 'make a block device of a file and print its path',
  details:
    'Several files are one device, end to end. Standard output has the path of the device and nothing else.',
  examples: ['dev=$(dmloop map disk.img)', 'dmloop map --partscan --read-only disk.img'],
  options: [...PLAN_OPTIONS, 'name', 'partitions', 'fence', 'udevScan', 'verify', 'timeout'],
  whenStopped: 'nothing is left of the device',
  async run(call) {
    const { operands, values, dmloop } = call
    const options = { ...values, ...longCall(call, 'comparing') }
    const device = await dmloop.mapFile(operands, options)
    await undoIfStopped(call, device)
    printDevice(call, device)
    warnOf(call, `${device.path} is a loop device, because:`, device.fallback)
    warnOf(call, `the partition table of ${device.path}:`, device.partitionProblems)
    return STATUS.done
  },
})

/** Problems that are no errors; in JSON, the device has them. */
export function warnOf(
  { json, screen }: Pick<Call, 'json' | 'screen'>,
  title: string,
  problems: readonly Problem[],
): void {
  if (json || problems.length === 0) return
  screen.warn(`dmloop: ${title}\n`)
  for (const each of problems) screen.warn(problemText(each))
}

/** A signal that came too late to stop the call. */
export async function undoIfStopped(
  { signal }: Pick<Call, 'signal'>,
  device: MappedDevice,
): Promise<void> {
  if (!signal.aborted) return
  await device.unmap()
  signal.throwIfAborted()
}

export function printDevice(
  { json, screen }: Pick<Call, 'json' | 'screen'>,
  device: MappedDevice,
): void {
  screen.print(json ? jsonText(deviceJson(device)) : `${device.path}\n`)
}
