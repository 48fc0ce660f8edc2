import { Readable } from 'node:stream'
import { STATUS } from './status.js'
import { jsonText, type CreateJson } from './json.js'
import { defineVerb, longCall, type Call } from './verb.js'

export const create = defineVerb({
  name: 'create',
  operands: 'FILE',
  count: [1, 1],
  summary: 'make an image that can be mapped, of a size or from content',
  details:
    'Allocates and writes every block, and prints the files that it made. It needs --size, --from or both; what the content does not fill is zeros.',
  examples: ['dmloop create --size=4G disk.img', 'curl -s URL | dmloop create --from=- disk.img'],
  options: ['size', 'from', 'sha256', 'maxExtents', 'maxFileSize', 'guard', 'overwrite'],
  whenStopped: 'no file is left',
  async run(call) {
    const [file] = call.operands as [string]
    const made = await contentOf(call, (from) =>
      call.dmloop.createImage(file, { ...call.values, ...from, ...longCall(call, file) }),
    )
    const document: CreateJson = { files: made }
    call.screen.print(call.json ? jsonText(document) : made.map((each) => `${each}\n`).join(''))
    return STATUS.done
  },
})

/** Runs a step with the content that was asked for. */
export async function contentOf<T>(
  { values: { from }, stdin }: Pick<Call<'from'>, 'values' | 'stdin'>,
  step: (content: { from?: string | Readable }) => Promise<T>,
): Promise<T> {
  const source = from === '-' ? stdin() : from
  try {
    return await step(source === undefined ? {} : { from: source })
  } finally {
    // A pipe that was not read to its end would keep the process alive.
    if (source instanceof Readable) source.destroy()
  }
}
