// Verdicts: numbers that do not fit.
import t from 'tap'
import { DmloopError, mapFile, openMapping, planFile, releaseFile, wrapDevice } from 'dmloop'
import { deviceNames, leftFiles, makeHost, oneSegment, randomFile, sh } from './lab.js'

const OK = { ok: true, problems: [] }
const MOST = Number.MAX_SAFE_INTEGER
const xfs = makeHost('xfs', oneSegment(1), { mkfs: '-m reflink=1' })

await t.test('a file that is too large for exact numbers', async (t) => {
  const file = `${xfs.path}/large`
  const TOO_LARGE = { code: 'DMLOOP_TOO_LARGE', blocks: 'all', file }
  for (const size of ['9P', '8P', `${2n ** 63n - 1n}`]) {
    sh(`truncate -s ${size} ${file}`)
    const exact = sh(`stat -c %s ${file}`).trim()
    for (const backend of ['linear', 'loop', 'auto'] as const) {
      for (const files of [file, [file, `${xfs.path}/other`]]) {
        randomFile(`${xfs.path}/other`, 65536)
        const options = { backend, readOnly: true, holes: 'zero' } as const
        const { problems } = await planFile(files, options)
        t.match(problems, [{ ...TOO_LARGE, message: new RegExp(`${exact} bytes`) }], size)
        t.equal(problems.length, 1)
        const error: unknown = await mapFile(files, options).catch((error: unknown) => error)
        t.ok(error instanceof DmloopError, String(error))
        t.strictSame((error as DmloopError).problems, problems, `${size}, ${backend}`)
      }
    }
    await releaseFile(file)
  }
  t.strictSame(leftFiles(), [])
})

await t.test('the largest that is not', async (t) => {
  const file = `${xfs.path}/largest`
  sh(`truncate -s ${MOST} ${file}`)
  const options = { readOnly: true, holes: 'zero' } as const
  const size = 2 ** 53 - 512
  t.match(await planFile(file, options), { problems: [], size })
  for (const backend of ['linear', 'loop'] as const) {
    const device = await mapFile(file, { ...options, backend })
    t.equal(device.size, size, backend)
    t.equal(sh(`blockdev --getsize64 ${device.path}`).trim(), String(size))
    t.strictSame(await device.verify({ content: 'sample' }), OK)
    await device.unmap()
  }
  const twice = [file, `${xfs.path}/other`]
  t.match(await planFile(twice, options), {
    problems: [{ code: 'DMLOOP_TOO_LARGE', file, message: /together/ }],
  })
  await t.rejects(mapFile(file, { offset: size, length: 512 * 3 }), {
    code: 'DMLOOP_TOO_LARGE',
    file,
  })

  // Preallocated beyond the end: the extent reaches over the limit that the file does not.
  sh(`xfs_io -c 'falloc -k ${2n ** 53n - 4096n} 8192' ${file}`)
  const [found] = (await planFile(file, options)).problems
  t.match(found, { code: 'DMLOOP_TOO_LARGE', file, message: /extent/ })
  await t.rejects(mapFile(file, options), { code: 'DMLOOP_TOO_LARGE', file })
})

await t.test('devices that are too large', async (t) => {
  const sectors = 2n ** 53n + 4096n
  sh('dmsetup create large', `0 ${sectors} zero\n`)
  const path = '/dev/mapper/large'
  await t.rejects(wrapDevice(path, { name: 'wrap' }), { code: 'DMLOOP_TOO_LARGE', file: path })
  const host = makeHost(
    'ext4',
    `0 131072 linear 1:0 0\n131072 8 linear ${sh(`stat -Lc %Hr:%Lr ${path}`).trim()} ${2n ** 53n + 1n}\n`,
    { name: 'host-on-large' },
  )
  const file = `${host.path}/image`
  randomFile(file, 65536)
  t.match((await planFile(file)).problems, [{ code: 'DMLOOP_TOO_LARGE', file }])
  await t.rejects(mapFile(file), { code: 'DMLOOP_TOO_LARGE', file })
  t.strictSame(leftFiles(), [])
  host.remove()
  sh('dmsetup remove --retry large')
})

await t.test('arguments never meet the native signatures', async (t) => {
  const file = `${xfs.path}/other`
  await t.rejects(openMapping('n'.repeat(200)), { code: 'DMLOOP_NOT_MAPPED' })
  const { extents } = await planFile(file)
  t.strictSame(
    [extents.at(0.5), extents.at(-1), extents.at(NaN)],
    [undefined, undefined, undefined],
  )
  t.match(extents.at(0), { logical: 0 })
})

xfs.remove()
t.strictSame(deviceNames(), [])
