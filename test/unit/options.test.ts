import { inspect } from 'node:util'
import t from 'tap'
import { mapFile, openMapping, planFile, type DmloopError, type MapOptions } from 'dmloop'
import { parseMapOptions, parseUnmapOptions, parseVerifyOptions } from '#lib/options.js'
import { checkedName, identityOf, namesAfter, uuidOf } from '#lib/plan/names.js'

const TYPE = { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' }
const VALUE = { name: 'TypeError', code: 'ERR_INVALID_ARG_VALUE' }
const RANGE = { name: 'RangeError', code: 'ERR_OUT_OF_RANGE' }

await t.test('wrong arguments are told from the start, as Node does', async (t) => {
  const circular: Record<string, unknown> = {}
  circular.itself = circular
  const wrong: (readonly [options: unknown, error: typeof TYPE])[] = [
    [null, TYPE],
    ['x', TYPE],
    [{ offset: '0' }, TYPE],
    [{ offset: -512 }, RANGE],
    [{ offset: 0.5 }, RANGE],
    [{ offset: NaN }, RANGE],
    [{ offset: 2 ** 53 }, RANGE],
    [{ length: 0 }, RANGE],
    [{ length: Infinity }, RANGE],
    [{ length: 5n }, TYPE],
    [{ readOnly: 'yes' }, TYPE],
    [{ readonly: true }, VALUE],
    [{ holes: 'zeros' }, VALUE],
    [{ holes: 'zero' }, VALUE],
    [{ name: 5 }, TYPE],
    [{ guard: 'lease' }, VALUE],
    [{ verify: true }, VALUE],
    [{ backend: 'dm' }, VALUE],
    [{ partitionScan: true, backend: 'loop' }, VALUE],
    [{ backend: 5n }, VALUE],
    [{ blockSize: 512 }, VALUE],
    [{ blockSize: 512, backend: 'linear' }, VALUE],
    [{ blockSize: '512', backend: 'loop' }, TYPE],
    ...[0, 256, 513, 1536, 8192].map(
      (blockSize) => [{ blockSize, backend: 'loop' }, VALUE] as const,
    ),
    [{ blockSize: -512, backend: 'loop' }, RANGE],
    [{ holes: circular }, VALUE],
    [{ partitions: 1 }, TYPE],
    [{ udevScan: 'no' }, TYPE],
    [{ udevScan: false, backend: 'loop' }, VALUE],
    [{ udevScan: false, backend: 'auto' }, VALUE],
    [{ onProgress: 5 }, TYPE],
    [{ timeout: -1 }, RANGE],
    [{ signal: {} }, TYPE],
  ]
  for (const [options, error] of wrong) {
    await t.rejects(mapFile('/nothing', options as MapOptions), error, inspect(options))
  }
  for (const file of [undefined, 5, null, [5], true] as unknown as string[]) {
    await t.rejects(mapFile(file), TYPE, `file ${file}`)
    await t.rejects(planFile(file), TYPE)
  }
  // eslint-disable-next-line no-sparse-arrays
  await t.rejects(planFile([, '/nothing'] as string[]), TYPE, 'a gap in the array')
  for (const file of ['', 'a\0b', 'a\ud800', ['\udc00'], []]) await t.rejects(planFile(file), VALUE)
  await t.rejects(planFile('/nothing', { name: 'x' } as object), VALUE, 'a plan has no name')
  await t.rejects(openMapping(5 as unknown as string), TYPE)
  t.throws(() => parseVerifyOptions({ content: 'all' }), VALUE)
  t.throws(() => parseUnmapOptions({ deferred: 1 }), TYPE)
  t.throws(() => parseUnmapOptions({ force: true }), VALUE)
})

await t.test('defaults', (t) => {
  t.strictSame(parseMapOptions('a', undefined), {
    files: ['a'],
    offset: 0,
    length: undefined,
    readOnly: false,
    holes: 'reject',
    backend: 'linear',
    blockSize: undefined,
    partitions: false,
    fence: false,
    name: undefined,
    guard: 'immutable',
    udevScan: true,
    verify: 'sample',
    onProgress: undefined,
    timeout: 10_000,
    signal: undefined,
  })
  t.end()
})

await t.test('names', (t) => {
  const INVALID = { code: 'DMLOOP_NAME_INVALID' }
  t.equal(checkedName('A-z0#+-.:=@_'), 'A-z0#+-.:=@_')
  for (const name of ['', '.', '..', 'control', 'a/b', 'a b', 'ä', 'n'.repeat(128), 'a\n']) {
    t.throws(() => checkedName(name), INVALID, JSON.stringify(name))
  }
  const long = 'n'.repeat(200)
  for (const [file, ...expected] of [
    ['disk.img', 'disk.img', 'disk.img-1', 'disk.img-2'],
    ['my disk (1).img', 'my_disk__1_.img', 'my_disk__1_.img-1', 'my_disk__1_.img-2'],
    ['control', 'control-1', 'control-2', 'control-3'],
    ['...', '...', '...-1', '...-2'],
    ['äöü', '___', '___-1', '___-2'],
    [long, long.slice(0, 127), `${long.slice(0, 125)}-1`, `${long.slice(0, 125)}-2`],
  ] as const) {
    const names = namesAfter(`/a/${file}`)
    const found = expected.map(() => names.next().value)
    t.strictSame(found, expected, file)
    for (const name of found) t.equal(checkedName(name), name)
  }
  t.equal(identityOf(uuidOf('8-1-12')), '8-1-12')
  t.equal(identityOf('LVM-abc'), undefined)
  t.end()
})

await t.test('the stack leads to the caller', async (t) => {
  async function theCaller(): Promise<void> {
    await planFile('/nothing/at/all')
  }
  const error = (await theCaller().catch((error: unknown) => error)) as DmloopError
  t.match(error, { code: 'ENOENT', syscall: 'open', path: '/nothing/at/all' })
})

await t.test('also from the depth of a walk', async (t) => {
  async function theCaller(): Promise<void> {
    await mapFile('/nothing/at/all', { backend: 'loop' })
  }
  const error = (await theCaller().catch((error: unknown) => error)) as Error
  t.match(error, { code: 'ENOENT', stack: /theCaller/ })
})
