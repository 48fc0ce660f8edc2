import type { DoneJson } from './json.js'
import { forEachTarget } from './results.js'
import { defineVerb, longCall } from './verb.js'

export const provision = defineVerb({
  name: 'provision',
  operands: 'FILE ...',
  count: [1, Infinity],
  summary: 'make a file mappable in place',
  details:
    'Writes zeros into holes and unwritten ranges, and gives the file blocks of its own where it shares some. What the file reads stays the same. Nobody else may have it open.',
  examples: ['dmloop provision disk.img'],
  options: ['timeout'],
  whenStopped: 'the file reads as before, and running it again goes on',
  async run(call) {
    const targets = call.operands.map((operand) => ({ operand }))
    return await forEachTarget(call, targets, async ({ operand }): Promise<DoneJson> => {
      await call.dmloop.provisionFile(operand, { ...call.values, ...longCall(call, operand) })
      return { ok: true }
    })
  },
})
