import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const DEMO = fileURLToPath(new URL('../../examples/demo.js', import.meta.url))

t.setTimeout(180_000)
const env = { ...process.env, NO_COLOR: '1' }
const { status, stdout, stderr } = spawnSync(process.execPath, [DEMO], { encoding: 'utf8', env })
t.equal(status, 0, stderr)
t.match(stdout, /\d extents on ext4/)
t.match(stdout, /0 \d+ linear \d+:\d+ \d+/, 'the table')
t.equal(stdout.match(/✓/g)?.length, 4, 'every comparison')
t.match(stdout, /^ {3}Written through the device\.$/m, 'the file holds what was written')
t.match(stdout, /^Done\./m)
