import { problemText } from '../failures.js'
import { jsonText, type DoneJson, type MapAllJson } from '../json.js'
import { printDevice, undoIfStopped, warnOf } from '../map.js'
import { STATUS } from '../status.js'
import { printable } from '../text.js'
import { defineVerb, longCall } from '../verb.js'
import { forEachImage, openStore } from './store.js'

export const map = defineVerb({
  name: 'image map',
  operands: 'DIRECTORY NAME',
  count: [2, 2],
  summary: 'make a block device of an image and print its path',
  details:
    'While the filesystem of the image is not mounted, it is mapped by what is recorded of it; the wrapper that the filesystem is to be mounted on is made first.',
  examples: ['dev=$(dmloop image map /srv/images root)'],
  options: ['name', 'fence', 'udevScan', 'verify', 'timeout', 'metadata'],
  whenStopped: 'nothing is left of the device',
  async run(call) {
    const { metadata: _, ...options } = call.values
    const store = await openStore(call)
    const name = call.operands[1] ?? ''
    const device = await store.map(name, { ...options, ...longCall(call, 'comparing') })
    await undoIfStopped(call, device)
    printDevice(call, device)
    warnOf(call, `the partition table of ${device.path}:`, device.partitionProblems)
    return STATUS.done
  },
})

export const mapAll = defineVerb({
  name: 'image map-all',
  operands: 'DIRECTORY',
  count: [1, 1],
  summary: 'make block devices of all images and print their paths',
  details:
    'Made for a boot: the filesystem of the images need not be mounted, and is to be mounted on its wrapper afterwards. Images that are disabled are left out. The exit status is 1 if one could not be mapped; the others are.',
  examples: ['dmloop image map-all --metadata=/etc/dmloop/images /srv/images'],
  options: ['fence', 'metadata'],
  whenStopped: 'what is mapped stays so',
  async run(call) {
    const { metadata: _, ...options } = call.values
    const store = await openStore(call)
    const done = await store.mapAll({ ...options, ...longCall(call, 'mapping') })
    const document: MapAllJson = done
    if (call.json) call.screen.print(jsonText(document))
    else {
      call.screen.print(done.mapped.map(({ path }) => `${path}\n`).join(''))
      for (const { name, problem } of done.problems) {
        call.screen.warn(`dmloop: ${printable(name)}: ${problemText(problem)}`)
      }
    }
    return done.problems.length === 0 ? STATUS.done : STATUS.refused
  },
})

export const unmap = defineVerb({
  name: 'image unmap',
  operands: 'DIRECTORY NAME ...',
  count: [2, Infinity],
  summary: 'remove the devices of images',
  details: 'The images stay guarded.',
  examples: ['dmloop image unmap /srv/images root'],
  options: ['deferred', 'timeout', 'metadata'],
  whenStopped: 'run it again for what is still mapped, or to finish',
  async run(call) {
    const { metadata: _, ...options } = call.values
    return await forEachImage(call, async (store, name): Promise<DoneJson> => {
      await store.unmap(name, { ...options, signal: call.signal })
      return { ok: true }
    })
  },
})
