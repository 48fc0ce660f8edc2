import { contentOf } from '../create.js'
import { jsonText } from '../json.js'
import { STATUS } from '../status.js'
import { defineVerb, longCall } from '../verb.js'
import { remindOfBootFiles } from './boot-files.js'
import { imageJson, openStore } from './store.js'

export const create = defineVerb({
  name: 'image create',
  operands: 'DIRECTORY NAME',
  count: [2, 2],
  summary: 'make an image of a size or from content, and keep it',
  details:
    'The image is NAME.img in the directory. It is guarded until it is deleted, so that its blocks stay where they are recorded. Its filesystem must be mounted on a wrapper. Prints the files that it made.',
  examples: ['dmloop image create --from=root.img.zst /srv/images root'],
  options: [
    ...(['size', 'from', 'sha256', 'maxExtents', 'maxFileSize'] as const),
    ...(['readOnly', 'partitions', 'metadata'] as const),
  ],
  whenStopped: 'nothing is left of the image',
  async run(call) {
    const name = call.operands[1] ?? ''
    const { metadata: _, ...options } = call.values
    const store = await openStore(call)
    const made = await contentOf(call, (from) =>
      store.create(name, { ...options, ...from, ...longCall(call, name) }),
    )
    const lines = made.files.map((file) => `${file}\n`).join('')
    call.screen.print(call.json ? jsonText(imageJson(made)) : lines)
    remindOfBootFiles(call)
    return STATUS.done
  },
})
