import type { ValidatedJson } from '../json.js'
import { forEachTarget } from '../results.js'
import { defineVerb } from '../verb.js'
import { showVerification } from '../verify.js'
import { openStore } from './store.js'

export const validate = defineVerb({
  name: 'image validate',
  operands: 'DIRECTORY [NAME ...]',
  count: [1, Infinity],
  summary: 'compare images with what is recorded of them',
  details:
    'Compares where their files are stored, the guard and the label, of all images or of those that are named; changes nothing. The exit status is 1 if there is a problem.',
  examples: ['dmloop image validate /srv/images'],
  options: ['metadata'],
  async run(call) {
    const store = await openStore(call)
    const named = call.operands.slice(1)
    const names = named.length > 0 ? named : (await store.list()).map(({ name }) => name)
    return await forEachTarget(
      call,
      names.map((operand) => ({ operand })),
      async ({ operand }): Promise<ValidatedJson> => store.validate(operand),
      (found, operand) => showVerification(call, operand, found),
    )
  },
})
