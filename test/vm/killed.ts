// killed.js map FILE BACKEND | unmap FILE: one call, with a mark for kill-at before and after it.
import { existsSync } from 'node:fs'
import { mapFile, openMapping } from 'dmloop'

const [verb, file = '', backend] = process.argv.slice(2)
const device = verb === 'unmap' ? await openMapping(file) : undefined
existsSync('/mark/begin')
if (device) await device.unmap()
else await mapFile(file, { name: 'killed', backend: backend === 'loop' ? 'loop' : 'linear' })
existsSync('/mark/end')
