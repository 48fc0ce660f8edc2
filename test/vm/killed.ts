// killed.js map FILE VARIANT | unmap FILE | create FILE SOURCE MAX_FILE_SIZE | provision FILE |
// store DIRECTORY METADATA CALL ARGUMENT: one call, with a mark for kill-at before and after it.
import { existsSync, readSync } from 'node:fs'
import { createImage, ImageStore, mapFile, openMapping, provisionFile } from 'dmloop'

const [verb = '', file = '', ...rest] = process.argv.slice(2)
const device = verb === 'unmap' ? await openMapping(file) : undefined

const CALLS: Record<string, () => Promise<unknown>> = {
  map: () => {
    const [variant] = rest
    const backend = variant === 'loop' ? 'loop' : 'linear'
    const [partitions, fence] = [variant === 'partitions', variant === 'fence']
    const guard = variant === 'swapfile' ? 'swapfile' : 'immutable'
    return mapFile(file, { name: 'killed', backend, partitions, fence, guard })
  },
  unmap: async () => device?.unmap(),
  create: () =>
    createImage(file, { from: rest[0] ?? '', maxFileSize: Number(rest[1]), overwrite: true }),
  provision: () => provisionFile(file),
  store: async () => {
    const [metadata = '', call = '', ...args] = rest
    const store = await ImageStore.open(file, { metadata })
    if (call === 'create') await store.create('a', { from: args[0] ?? '' })
    if (call === 'resize') await store.resize('a', Number(args[0]))
    if (call === 'delete') await store.delete('a')
    if (call === 'map') await store.map('a')
    if (call === 'unmap') await store.unmap('a')
    if (call === 'mapAll') await store.mapAll()
  },
}
if (process.env.KILL_AT !== undefined) {
  process.kill(process.pid, 'SIGUSR2')
  readSync(0, Buffer.alloc(1))
}
existsSync('/mark/begin')
await CALLS[verb]?.()
existsSync('/mark/end')
