import { UsageError } from '../arguments.js'
import { jsonText, type DoneJson, type NamesJson, type ResultsJson } from '../json.js'
import { STATUS } from '../status.js'
import { defineVerb, longCall } from '../verb.js'
import { remindOfBootFiles } from './boot-files.js'
import { forEachImage, openStore } from './store.js'

const BOOT_FILES = 'What dmloop image boot has made is to be made again afterwards.'

export const resize = defineVerb({
  name: 'image resize',
  operands: 'DIRECTORY NAME',
  count: [2, 2],
  summary: 'make an image larger in place, mapped or not',
  details: `What is added reads as zeros; a device has it at once. An image does not shrink. ${BOOT_FILES}`,
  examples: ['dmloop image resize --size=8G /srv/images root'],
  options: ['size', 'metadata'],
  whenStopped: 'the image is as before',
  async run(call) {
    const { size } = call.values
    if (size === undefined) throw new UsageError('--size is missing')
    const store = await openStore(call)
    const name = call.operands[1] ?? ''
    await store.resize(name, size, longCall(call, name))
    remindOfBootFiles(call)
    const document: DoneJson = { ok: true }
    if (call.json) call.screen.print(jsonText(document))
    return STATUS.done
  },
})

export const remove = defineVerb({
  name: 'image delete',
  operands: 'DIRECTORY NAME ...',
  count: [1, Infinity],
  summary: 'delete images that are not mapped',
  details: `With --all, every image of the store, or none while one of them is mapped. ${BOOT_FILES}`,
  examples: ['dmloop image delete /srv/images old'],
  options: ['all', 'metadata'],
  async run(call) {
    const { all } = call.values
    const named = call.operands.length > 1
    if ((all === true) === named) {
      throw new UsageError(named ? '--all leaves nothing to name' : 'name an image, or say --all')
    }
    if (all) {
      const store = await openStore(call)
      const results = (await store.list()).map(({ name }) => ({ operand: name, ok: true as const }))
      await store.removeAll()
      remindOfBootFiles(call)
      const document: ResultsJson<DoneJson> = { results }
      if (call.json) call.screen.print(jsonText(document))
      return STATUS.done
    }
    const status = await forEachImage(call, async (store, name): Promise<DoneJson> => {
      await store.delete(name)
      return { ok: true }
    })
    remindOfBootFiles(call)
    return status
  },
})

export const disable = defineVerb({
  name: 'image disable',
  operands: 'DIRECTORY NAME ...',
  count: [2, Infinity],
  summary: 'have images deleted as soon as they are not in use',
  details: 'They are mapped by nobody until dmloop image remove-disabled deletes them.',
  examples: ['dmloop image disable /srv/images old'],
  options: ['metadata'],
  async run(call) {
    const status = await forEachImage(call, async (store, name): Promise<DoneJson> => {
      await store.disable(name)
      return { ok: true }
    })
    remindOfBootFiles(call)
    return status
  },
})

export const removeDisabled = defineVerb({
  name: 'image remove-disabled',
  operands: 'DIRECTORY',
  count: [1, 1],
  summary: 'delete the images that are disabled and not mapped',
  details: 'Prints their names.',
  examples: ['dmloop image remove-disabled /srv/images'],
  options: ['metadata'],
  async run(call) {
    const names = await (await openStore(call)).removeDisabled()
    const document: NamesJson = { names }
    call.screen.print(call.json ? jsonText(document) : names.map((name) => `${name}\n`).join(''))
    return STATUS.done
  },
})
