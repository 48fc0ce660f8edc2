import type { DoneJson } from './json.js'
import { forEachTarget } from './results.js'
import { defineVerb } from './verb.js'

export const release = defineVerb({
  name: 'release',
  operands: 'FILE ...',
  count: [1, Infinity],
  summary: 'undo what a crash or a reboot has left on a file',
  details: 'Restores the attributes that the guard has changed. A mapped file is refused.',
  examples: ['dmloop release disk.img'],
  options: [],
  async run(call) {
    const targets = call.operands.map((operand) => ({ operand }))
    return await forEachTarget(call, targets, async ({ operand }): Promise<DoneJson> => {
      await call.dmloop.releaseFile(operand)
      return { ok: true }
    })
  },
})
