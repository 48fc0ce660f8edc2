// planFile and mapFile on this machine's own filesystems, which must be left as they are.
import { constants, existsSync } from 'node:fs'
import { mkdtemp, open, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { createImage, listMappings, mapFile, openMapping, planFile, type DmloopError } from 'dmloop'

const directory = await mkdtemp(join(tmpdir(), 'dmloop-test-'))
t.teardown(() => rm(directory, { recursive: true, force: true }))
const file = join(directory, 'image')
await writeFile(file, Buffer.alloc(1 << 20, 7))
{
  await using written = await open(file, constants.O_RDWR)
  await written.sync()
}

/** The records of mappings; only root can make or read them. */
const recordNames = async (): Promise<string[]> =>
  process.getuid?.() === 0 && existsSync('/run/dmloop') ? await readdir('/run/dmloop') : []

await t.test('a plan says what it found and why it cannot be mapped', async (t) => {
  const plan = await planFile(file)
  t.equal(plan.size, 1 << 20)
  t.equal(plan.backend, 'linear')
  t.match(plan.files, [{ path: file, size: 1 << 20, device: /^\d+:\d+$/, blockSize: /^\d+$/ }])
  t.strictSame(JSON.parse(JSON.stringify(plan)), {
    backend: 'linear',
    fallback: [],
    tailBytes: plan.tailBytes,
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

await t.test('an image is made', async (t) => {
  const image = join(directory, 'made')
  const content = Buffer.alloc((9 << 20) + 5, 'content ')
  await writeFile(join(directory, 'content'), content)
  const from = join(directory, 'content')
  t.strictSame(await createImage(image, { from, size: 80 << 20 }), [image])
  const made = await readFile(image)
  t.equal(made.length, 80 << 20)
  t.ok(made.subarray(0, content.length).equals(content))
  t.ok(
    made.subarray(content.length).every((byte) => byte === 0),
    'and zeros',
  )
  const parts = await createImage(`${image}-parts`, { from, maxFileSize: 4 << 20 })
  t.equal(parts.length, 3)
  await t.rejects(createImage(image, { size: 512 * 1024 }), { code: 'DMLOOP_IMAGE_EXISTS' })
  const { blocks } = await stat(image)
  t.ok(blocks * 512 >= 80 << 20, 'all of its blocks are allocated')
  const names = await readdir(directory)
  t.strictSame(
    names.filter((name) => name.startsWith('.')),
    [],
    'no temporary files are left',
  )
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
  const records = await recordNames()
  t.strictSame(records, [])
})

await t.test('auto maps the file all the same, and leaves nothing behind', async (t) => {
  const loops = async (): Promise<string[]> => {
    const bound = []
    for (const name of await readdir('/sys/block')) {
      if (existsSync(`/sys/block/${name}/loop`)) bound.push(name)
    }
    return bound
  }
  const before = await loops()
  const name = `dmloop-test-${process.pid}`
  if (process.getuid?.() !== 0) {
    // Only root may use loop devices: that is told as the kernel tells it.
    await t.rejects(mapFile(file, { backend: 'auto', name }), { code: /^(EACCES|EPERM)$/ })
    return
  }
  const plan = await planFile(file, { backend: 'auto' })
  const device = await mapFile(file, { backend: 'auto', name, verify: 'full' })
  try {
    t.equal(device.backend, plan.backend)
    t.match(await openMapping(name), { path: device.path, uuid: device.uuid, files: [file] })
    t.ok((await listMappings()).some(({ path }) => path === device.path))
    await t.rejects(mapFile(file, { backend: 'loop' }), { code: 'DMLOOP_ALREADY_MAPPED' })
    t.equal(device.backend === 'loop', device.fallback.length > 0, 'a loop device, and why')
    t.ok((await readFile(device.path)).equals(Buffer.alloc(1 << 20, 7)))
    await using node = await open(device.path, 'r+')
    await node.write(Buffer.alloc(4096, 9), 0, 4096, 8192)
    await node.sync()
  } finally {
    await device.unmap()
  }
  await (await mapFile(file, { backend: 'loop', name, readOnly: true })).unmap()
  const expected = Buffer.alloc(1 << 20, 7).fill(9, 8192, 12288)
  t.ok((await readFile(file)).equals(expected), 'the file holds what was written')
  t.strictSame(await loops(), before, 'no loop device')
  t.strictSame(await recordNames(), [], 'no record')
})
