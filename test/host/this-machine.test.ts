// planFile and mapFile on this machine's own filesystems, which must be left as they are.
import { constants, existsSync } from 'node:fs'
import { mkdtemp, open, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { mapFile, planFile, type DmloopError } from 'dmloop'

const directory = await mkdtemp(join(tmpdir(), 'dmloop-test-'))
t.teardown(() => rm(directory, { recursive: true, force: true }))
const file = join(directory, 'image')
await writeFile(file, Buffer.alloc(1 << 20, 7))
await (await open(file, constants.O_RDWR)).sync()

await t.test('a plan says what it found and why it cannot be mapped', async (t) => {
  const plan = await planFile(file)
  t.equal(plan.size, 1 << 20)
  t.equal(plan.backend, 'linear')
  t.match(plan.files, [{ path: file, size: 1 << 20, device: /^\d+:\d+$/, blockSize: /^\d+$/ }])
  t.strictSame(JSON.parse(JSON.stringify(plan)), {
    backend: 'linear',
    problems: plan.problems.map((each) => JSON.parse(JSON.stringify(each)) as unknown),
    size: plan.size,
    readOnly: false,
    files: plan.files,
    extents: [...plan.extents],
    segments: [...plan.segments],
  })
  t.equal(plan.problems.length === 0, plan.segments.length > 0, 'a table, or problems')
  const covered = [...plan.extents].reduce((sum, { length }) => sum + length, 0)
  t.ok(covered === 0 || covered === plan.size, 'extents cover the file, if they were asked for')
  for (const { message, remedy, blocks } of plan.problems) {
    t.ok(message.startsWith(file) && remedy !== '' && blocks === 'linear', message)
  }
})

await t.test('a link is followed, and what is not a file is told', async (t) => {
  await symlink(file, join(directory, 'link'))
  t.match((await planFile(join(directory, 'link'))).files, [{ path: file }])
  for (const path of [directory, '/dev/null']) {
    const plan = await planFile(path)
    t.match(plan, { size: 0, files: [], problems: [{ code: 'DMLOOP_NOT_REGULAR_FILE' }] }, path)
    t.equal(plan.toTable(), '')
  }
  await t.rejects(planFile(join(directory, 'none')), { code: 'ENOENT', errno: -2 })
})

await t.test('a file without blocks', async (t) => {
  await writeFile(join(directory, 'empty'), '')
  const { problems } = await planFile(join(directory, 'empty'))
  t.equal(problems[0]?.code, 'DMLOOP_EMPTY_FILE')
})

await t.test('mapFile where it cannot: one clear error, nothing left behind', async (t) => {
  const { problems } = await planFile(file)
  if (problems.length === 0) {
    // This machine's filesystem is on device-mapper: then it simply works.
    await using device = await mapFile(file, { name: `dmloop-test-${process.pid}` })
    t.equal(device.size, 1 << 20)
    return
  }
  const before = await stat(file)
  const error = (await mapFile(file).catch((error: unknown) => error)) as DmloopError
  t.match(error.code, /^(DMLOOP_\w+|EACCES|EPERM)$/)
  const after = await stat(file)
  t.strictSame(
    [after.size, after.mode, after.mtimeMs, after.ino],
    [before.size, before.mode, before.mtimeMs, before.ino],
  )
  t.ok((await readFile(file)).equals(Buffer.alloc(1 << 20, 7)))
  const records = existsSync('/run/dmloop') ? await readdir('/run/dmloop') : []
  t.strictSame(records, [])
})
