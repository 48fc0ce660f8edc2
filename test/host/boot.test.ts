// The shortest boot of Debian by the boot files; the others are npm run test:boot.
import { fileURLToPath } from 'node:url'
import t from 'tap'

t.setTimeout(0)
await t.spawn(
  process.execPath,
  [fileURLToPath(new URL('../boot/run.js', import.meta.url)), 'shortest'],
  { buffered: true, timeout: 0 },
  'boot',
)
