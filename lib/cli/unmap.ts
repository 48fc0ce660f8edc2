import { deviceJson, type UnmappedJson } from './json.js'
import { findTargets, forEachTarget } from './results.js'
import { defineVerb } from './verb.js'

export const unmap = defineVerb({
  name: 'unmap',
  operands: 'NAME|DEVICE|FILE ...',
  count: [0, Infinity],
  summary: 'remove the device of a mapping and release its files',
  details:
    'Finds a mapping by its name, its device or one of its files (a path has a slash, as ./disk.img), whichever process made it. With --deferred the files are released by the next dmloop command that meets them, such as dmloop list.',
  examples: ['dmloop unmap disk.img', 'dmloop unmap --all'],
  options: ['all', 'deferred', 'timeout'],
  whenStopped: 'run it again for what is still mapped, or to finish',
  async run(call) {
    const { all: _, ...options } = call.values
    return await forEachTarget(
      call,
      await findTargets(call),
      async ({ open }): Promise<UnmappedJson> => {
        const mapping = await open()
        await mapping.unmap({ ...options, signal: call.signal })
        return { device: deviceJson(mapping) }
      },
    )
  },
})
