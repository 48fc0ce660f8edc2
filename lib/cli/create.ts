import { Readable } from 'node:stream'
import { STATUS } from './status.js'
import { jsonText, type CreateJson } from './json.js'
import { defineVerb, longCall } from './verb.js'

export const create = defineVerb({
  name: 'create',
  operands: 'FILE',
  count: [1, 1],
  summary: 'make an image that can be mapped, of a size or from content',
  details:
    'Allocates and writes every block, and prints the files that it made. It needs --size, --from or both; what the content does not fill is zeros.',
  examples: ['dmloop create --size=4G disk.img', 'curl -s URL | dmloop create --from=- disk.img'],
  options: ['size', 'from', 'sha256', 'maxExtents', 'maxFileSize', 'overwrite'],
  whenStopped: 'no file is left',
  async run(call) {
    const [file] = call.operands as [string]
    const { from, ...options } = call.values
    const source = from === '-' ? call.stdin() : from
    const made = await call.dmloop
      .createImage(file, {
        ...options,
        ...(source === undefined ? {} : { from: source }),
        ...longCall(call, file),
      })
      // A pipe that was not read to its end would keep the process alive.
      .finally(() => source instanceof Readable && source.destroy())
    const document: CreateJson = { files: made }
    call.screen.print(call.json ? jsonText(document) : made.map((each) => `${each}\n`).join(''))
    return STATUS.done
  },
})
