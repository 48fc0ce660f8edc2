import type { Verification } from '../index.js'
import { problemText } from './failures.js'
import { deviceJson, type VerifiedJson } from './json.js'
import { findTargets, forEachTarget } from './results.js'
import { STATUS } from './status.js'
import { counted, printable } from './text.js'
import { defineVerb, longCall, type Call } from './verb.js'

export const verify = defineVerb({
  name: 'verify',
  operands: 'NAME|DEVICE|FILE ...',
  count: [0, Infinity],
  summary: 'check that a device still maps the blocks of its file',
  details:
    'Reads the extents again, compares them with the live table and checks the guard; changes nothing. The exit status is 1 if there is a problem.',
  examples: ['dmloop verify --content=full disk.img', 'dmloop verify --all'],
  options: ['all', 'content'],
  whenStopped: 'nothing was changed',
  async run(call) {
    const { content } = call.values
    return await forEachTarget(
      call,
      await findTargets(call),
      async ({ operand, open }): Promise<VerifiedJson> => {
        const mapping = await open()
        const { ok, problems } = await mapping.verify({
          ...longCall(call, `comparing ${operand}`),
          ...(content === undefined ? {} : { content }),
        })
        return { device: deviceJson(mapping), ok, problems }
      },
      (found, operand) => showVerification(call, operand, found),
    )
  },
})

/** Prints what was found of a mapping or an image, for people; returns the status. */
export function showVerification(
  { json, screen }: Pick<Call, 'json' | 'screen'>,
  operand: string,
  { ok, problems }: Verification,
): number {
  const found = ok
    ? screen.paint('green', 'ok')
    : screen.paint('red', counted(problems.length, 'problem'))
  if (!json) screen.print(`${printable(operand)}: ${found}\n${problems.map(problemText).join('')}`)
  return ok ? STATUS.done : STATUS.refused
}
