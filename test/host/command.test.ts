// The command on this machine, where it may be able to map nothing: what it draws of a file, and how it ends.
import { spawnSync } from 'node:child_process'
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { planFile } from 'dmloop'
import { misfits } from '../tools/json-shape.js'

const COMMAND = fileURLToPath(new URL('../../../dist/cli/dmloop.js', import.meta.url))
const directory = mkdtempSync(join(tmpdir(), 'dmloop-command-'))
t.teardown(() => {
  rmSync(directory, { recursive: true, force: true })
})
const file = join(directory, 'image')
const written = openSync(file, 'w')
writeSync(written, Buffer.alloc(1 << 20, 7))
fsyncSync(written)
closeSync(written)

const dmloop = (...words: string[]) =>
  spawnSync(process.execPath, [COMMAND, ...words], { encoding: 'utf8' })
const shell = (line: string) =>
  spawnSync('bash', ['-c', line, process.execPath, COMMAND], { encoding: 'utf8' })

const { problems, extents } = await planFile(file)

await t.test('plan', (t) => {
  const { status, stdout, stderr } = dmloop('plan', file)
  t.equal(status, problems.length === 0 ? 0 : 1)
  t.equal(stderr, '')
  t.match(stdout, `${file}: 1 MiB on`)
  if (extents.length > 0) t.match(stdout, /\n {2}[.+#]{78}\n[^]*\d extents? +largest/)
  for (const { code } of problems) t.match(stdout, code)

  const json = dmloop('plan', '--json', file)
  t.equal(json.status, status)
  const plan = JSON.parse(json.stdout) as unknown
  t.strictSame(misfits('plan', plan), [])
  t.match(plan, { size: 1 << 20, files: [{ path: file }], extents: [...extents] })
  t.end()
})

await t.test('exit status', (t) => {
  t.equal(dmloop('help').status, 0)
  t.match(dmloop('plan', directory), { status: 1, stderr: '', stdout: /DMLOOP_NOT_REGULAR_FILE/ })
  t.match(dmloop('plan', '--nothing', file), { status: 2, stdout: '', stderr: /^dmloop: .*\n$/ })
  t.match(dmloop('plan', join(directory, 'none')), { status: 3, stdout: '', stderr: /ENOENT/ })
  const json = dmloop('plan', '--json', join(directory, 'none'))
  t.match(json, { status: 3, stderr: '' })
  t.strictSame(misfits('FailureJson', JSON.parse(json.stdout)), [])
  t.end()
})

await t.test('a reader that ends first, and a full disk', (t) => {
  const piped = shell('"$0" "$1" help | true; echo "${PIPESTATUS[0]}"')
  t.match(piped, { stdout: '0\n', stderr: '' }, 'no crash')
  const full = shell('"$0" "$1" help >/dev/full')
  t.match(full, { status: 3, stderr: /^dmloop: ENOSPC/ })
  t.end()
})
