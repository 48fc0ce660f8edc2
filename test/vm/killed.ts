// killed.js map FILE VARIANT | unmap FILE | create FILE SOURCE MAX_FILE_SIZE | provision FILE: one call, with a
// mark for kill-at before and after it.
import { existsSync } from 'node:fs'
import { createImage, mapFile, openMapping, provisionFile } from 'dmloop'

const [verb = '', file = '', ...rest] = process.argv.slice(2)
const device = verb === 'unmap' ? await openMapping(file) : undefined

const CALLS: Record<string, () => Promise<unknown>> = {
  map: () => {
    const [variant] = rest
    const backend = variant === 'loop' ? 'loop' : 'linear'
    return mapFile(file, { name: 'killed', backend, partitions: variant === 'partitions' })
  },
  unmap: async () => device?.unmap(),
  create: () =>
    createImage(file, { from: rest[0] ?? '', maxFileSize: Number(rest[1]), overwrite: true }),
  provision: () => provisionFile(file),
}
existsSync('/mark/begin')
await CALLS[verb]?.()
existsSync('/mark/end')
