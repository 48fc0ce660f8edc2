// npm run bench: measures in the guest kernel.
import { fileURLToPath } from 'node:url'
import { GUEST_DEFAULTS, runInGuest } from '../vm/kernel.js'

const program = fileURLToPath(new URL('map.js', import.meta.url))
process.exitCode = await runInGuest([process.execPath, program], {
  ...GUEST_DEFAULTS,
  disk: 512,
  memory: '3G',
})
