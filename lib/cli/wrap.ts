import { STATUS } from './status.js'
import { printDevice, undoIfStopped } from './map.js'
import { defineVerb } from './verb.js'

export const wrap = defineVerb({
  name: 'wrap',
  operands: 'DEVICE NAME',
  count: [2, 2],
  summary: 'make a device over a disk or partition, to mount its filesystem on',
  details:
    'Files of a filesystem that is mounted on the wrapper can be mapped; one that is mounted on the disk itself keeps the disk from device-mapper. Prints the path of the wrapper.',
  examples: ['mount "$(dmloop wrap /dev/sdb1 data)" /mnt'],
  options: ['udevScan'],
  whenStopped: 'nothing is left of the device',
  async run(call) {
    const [device, name] = call.operands as [string, string]
    const wrapped = await call.dmloop.wrapDevice(device, { name, ...call.values })
    await undoIfStopped(call, wrapped)
    printDevice(call, wrapped)
    return STATUS.done
  },
})
