// No two mappings share a block: whichever their backends, whatever number their filesystem has, and
// however close in time they are made.
import { mkdirSync } from 'node:fs'
import t, { type Test } from 'tap'
import { mapFile, openMapping, planFile, type MappedDevice, type MapOptions } from 'dmloop'
import { native } from '#lib/kernel/native.js'
import { deviceNames, fragmentedFile, leftFiles, makeHost, randomFile, sh } from './lab.js'

const TABLE = '0 131072 linear 1:1 0\n'
const HALF = 1 << 20
const MAPPED = { code: 'DMLOOP_ALREADY_MAPPED' }

mkdirSync('/tmp/again')
// Without a journal: the same disk is looked at through two devices.
const host = makeHost('ext2', TABLE, { name: 'volume' })
const file = `${host.path}/image`
fragmentedFile(file, 2 * HALF, 50, 4)
randomFile(`${host.path}/second`, HALF)
sh(`truncate -s 4M ${host.path}/sparse; dd if=/dev/urandom of=${host.path}/sparse bs=64k count=1 \
    seek=9 conv=notrunc status=none; sync`)

const other = makeHost('ext4', '0 131072 linear 1:0 0\n', { name: 'other' })
randomFile(`${other.path}/image`, HALF)
const devices = deviceNames()

/** The volume goes and comes back with another number, as mappings of its files let it. */
function renumber(): void {
  host.remove()
  sh('dmsetup create keeper --table "0 8 zero"; dmsetup create volume', TABLE)
  sh(`dmsetup remove keeper; mount /dev/mapper/volume ${host.path}`)
}

/** The same volume once more, under another number, read-only. */
function mountAgain(): void {
  sh('dmsetup create again; mount -o ro /dev/mapper/again /tmp/again', TABLE)
}

const unmountAgain = (): void => void sh('umount /tmp/again; dmsetup remove --retry again')

/** Neither the plan nor the mapping is made, and nothing is left of it. */
async function refused(
  t: Test,
  what: string | string[],
  options: MapOptions,
  message: RegExp,
): Promise<void> {
  const before = [deviceNames(), leftFiles(), sh('losetup -l')]
  await t.rejects(mapFile(what, { name: 'twin', ...options }), { ...MAPPED, message })
  const { guard: _, ...planned } = options
  t.match((await planFile(what, planned)).problems, [{ ...MAPPED, message }], 'the plan says so')
  t.strictSame([deviceNames(), leftFiles(), sh('losetup -l')], before, 'nothing is left')
}

await t.test('a loop device over blocks that are mapped under another number', async (t) => {
  for (const [name, also] of [
    ['image', file],
    ['sparse', [file, `${host.path}/sparse`]],
  ] as const) {
    const whole = `${host.path}/${name}`
    const range = name === 'sparse' ? { offset: 9 << 16, length: 1 << 16 } : {}
    const linear = await mapFile(whole, { ...range, guard: 'none' })
    renumber()
    const message = new RegExp(`is mapped already, as /dev/mapper/${name}`)
    await refused(t, whole, { backend: 'loop' }, message)
    await refused(t, whole, { backend: 'loop', readOnly: true }, message)
    await refused(t, [...[also].flat()], { backend: 'loop' }, message)
    await refused(t, whole, { ...range, guard: 'none' }, message)
    const beside = await mapFile(`${host.path}/second`, { backend: 'loop', name: 'beside' })
    t.equal(beside.backend, 'loop', 'a file beside it can be shown')
    await beside.unmap()
    await linear.unmap()
    const loop = await mapFile(whole, { backend: 'loop', name: 'twin' })
    t.equal(loop.backend, 'loop', 'once nobody has them')
    await loop.unmap()
  }
})

await t.test('a file that a loop device shows under another number', async (t) => {
  for (const shown of [file, [file, `${host.path}/second`]]) {
    const loop = await mapFile(shown, { backend: 'loop', readOnly: true, name: 'shown' })
    mountAgain()
    for (const backend of ['linear', 'loop', 'auto'] as const) {
      await refused(
        t,
        '/tmp/again/image',
        { backend, readOnly: true },
        /a file there backs \/dev\/loop\d+/,
      )
    }
    const elsewhere = await mapFile(`${other.path}/image`, { name: 'elsewhere' })
    t.equal(elsewhere.backend, 'linear', 'a file of another filesystem can be mapped')
    await elsewhere.unmap()
    await loop.unmap()
    const linear = await mapFile('/tmp/again/image', { readOnly: true, name: 'twin' })
    t.equal(linear.backend, 'linear', 'once nobody shows it')
    await linear.unmap()
    unmountAgain()
  }
})

await t.test('what a mapping is about to grow by', async (t) => {
  const device = await mapFile(file, { length: HALF, guard: 'none' })
  mountAgain()
  const rest: MapOptions = { offset: HALF, readOnly: true }
  const free = await planFile('/tmp/again/image', rest)
  t.strictSame(free.problems, [], 'the other half is free')
  // As extend() does before it resumes.
  const { segments } = await planFile(file)
  sh(`dmsetup load ${device.name}`, segments.toTable())
  await refused(t, '/tmp/again/image', rest, /mapper\/image/)
  sh(`dmsetup clear ${device.name}`)
  const twin = await mapFile('/tmp/again/image', { ...rest, name: 'twin' })
  await twin.unmap()
  await device.unmap()
  unmountAgain()
})

await t.test('a table that goes live between two looks at it', async (t) => {
  const { segments } = await planFile(file)
  sh('dmsetup create rival -u DMLOOP-rival --notable; dmsetup load rival', segments.toTable())
  const honest = native.dmTable
  let looks = 0
  native.dmTable = async (target, inactive) => {
    const answer = await honest(target, inactive)
    if ('uuid' in target && target.uuid === 'DMLOOP-rival' && looks++ === 0) {
      sh('dmsetup resume rival')
    }
    return answer
  }
  try {
    await t.rejects(mapFile(file, { guard: 'none' }), { ...MAPPED, message: /mapper\/rival/ })
    t.ok(looks > 0, 'it was looked at')
  } finally {
    native.dmTable = honest
  }
  sh('dmsetup remove --retry rival')
})

await t.test('extend and mapFile at the same moment', async (t) => {
  mountAgain()
  const rest: MapOptions = { offset: HALF, readOnly: true, name: 'rest' }
  const half = (): Promise<MappedDevice> => mapFile(file, { length: HALF, guard: 'none' })
  const outcome = (work: Promise<unknown>): Promise<string> =>
    work.then(
      () => 'done',
      (error: unknown) => (error as { code: string }).code,
    )
  const clean = async (): Promise<void> => {
    for (const name of ['rest', 'image']) if (deviceNames().includes(name)) await unmap(name)
  }
  const unmap = async (name: string): Promise<void> => (await openMapping(name)).unmap()

  // Each as a whole between the other's load and its look.
  const honest = native.dmLoad
  const meanwhile = (act: () => Promise<unknown>): void => {
    native.dmLoad = async (...args) => {
      native.dmLoad = honest
      const loaded = await honest(...args)
      await act()
      return loaded
    }
  }
  const seen: string[] = []
  const device = await half()
  meanwhile(async () => seen.push(await outcome(mapFile('/tmp/again/image', rest))))
  seen.push(await outcome(device.extend()))
  t.strictSame(seen, ['DMLOOP_ALREADY_MAPPED', 'done'], 'extend was first')
  await clean()

  const again = await half()
  seen.length = 0
  meanwhile(async () => seen.push(await outcome(again.extend())))
  seen.push(await outcome(mapFile('/tmp/again/image', rest)))
  t.strictSame(seen, ['DMLOOP_ALREADY_MAPPED', 'done'], 'mapFile was first')
  await clean()

  for (let round = 0; round < 10; round++) {
    const device = await half()
    const both = [device.extend(), mapFile('/tmp/again/image', rest)].map(outcome)
    const done = (await Promise.all(both)).filter((each) => each === 'done')
    t.ok(done.length < 2, `${done.length} of two at once`)
    await clean()
  }
  unmountAgain()
})

t.strictSame([deviceNames(), leftFiles()], [devices, []])
other.remove()
host.remove()
