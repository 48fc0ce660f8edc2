// The native half on its own: every device-mapper ioctl, its facts and its failures.
import { open } from 'node:fs/promises'
import t from 'tap'
import { native, result } from '#lib/kernel/native.js'
import { leftCookies, makeHost, oneSegment, randomFile, sh } from './lab.js'

const rows = (...segments: [start: number, length: number, device: number, offset: number][]) =>
  Float64Array.from(segments.flat())
const SUSPENDED = 1 << 1
const ACTIVE = 1 << 5
const INACTIVE = 1 << 6
const uuid = 'TEST-native'

await t.test('the life of a device', async (t) => {
  t.match(await result(native.dmVersion()), /^4\.\d+\.\d+$/)
  const created = await result(native.dmCreate('native', uuid))
  t.match(created, { name: 'native', uuid, openCount: 0, targetCount: 0 })
  const target = { major: created.major, minor: created.minor }

  await result(native.dmLoad({ uuid }, rows([0, 8, 0, 16], [8, 8, -1, 0]), ['1:0'], false))
  const loaded = await result(native.dmStatus({ name: 'native' }))
  t.equal(loaded.flags & (ACTIVE | INACTIVE), INACTIVE, 'loaded, not live')
  const waiting = await result(native.dmTable(target, true))
  t.strictSame([...waiting.rows], [0, 8, 0, 16, 8, 8, -1, 0])
  t.strictSame(waiting.devices, ['1:0'])

  await result(native.dmClear({ uuid }))
  t.equal((await result(native.dmStatus(target))).flags & INACTIVE, 0, 'cleared')
  await result(native.dmLoad({ uuid }, rows([0, 16, 1, 16], [16, 8, 0, 0]), ['1:0', '1:1'], false))
  t.equal((await result(native.dmResume({ uuid }, 0))).flags & ACTIVE, ACTIVE, 'live')
  const live = await result(native.dmTable({ uuid }, false))
  t.strictSame([...live.rows], [0, 16, 0, 16, 16, 8, 1, 0], 'devices count as they appear')
  t.strictSame(live.devices, ['1:1', '1:0'])

  sh('dmsetup suspend native')
  t.equal((await result(native.dmStatus({ uuid }))).flags & SUSPENDED, SUSPENDED)
  t.equal((await result(native.dmResume({ uuid }, 0))).flags & SUSPENDED, 0)
  t.match(
    (await result(native.dmList())).map((device) => device.name),
    ['native'],
  )
  await result(native.dmRemove({ uuid }, false, 0))
  t.strictSame(await result(native.dmList()), [])
})

await t.test('failures carry errno, code and the ioctl’s name', async (t) => {
  const nobody = { uuid: 'TEST-nobody' }
  const ENXIO = { code: 'ENXIO', errno: -6 }
  await t.rejects(result(native.dmStatus(nobody), 'x'), {
    ...ENXIO,
    syscall: 'DM_DEV_STATUS',
    path: 'x',
  })
  await t.rejects(result(native.dmResume(nobody, 0)), { ...ENXIO, syscall: 'DM_DEV_RESUME' })
  await t.rejects(result(native.dmClear(nobody)), { ...ENXIO, syscall: 'DM_TABLE_CLEAR' })
  await t.rejects(result(native.dmTable(nobody, false)), { ...ENXIO, syscall: 'DM_TABLE_STATUS' })
  await t.rejects(result(native.dmRemove(nobody, false, 0)), { ...ENXIO, syscall: 'DM_DEV_REMOVE' })
  await t.rejects(result(native.dmLoad(nobody, rows([0, 8, -1, 0]), [], false)), {
    ...ENXIO,
    syscall: 'DM_TABLE_LOAD',
  })
  await t.rejects(result(native.dmCreate('n'.repeat(128), uuid)), { code: 'EINVAL' })
  await t.rejects(result(native.dmCreate('a/b', uuid)), {
    code: 'EINVAL',
    syscall: 'DM_DEV_CREATE',
  })

  await result(native.dmCreate('native', uuid))
  const EBUSY = { code: 'EBUSY', errno: -16, syscall: 'DM_DEV_CREATE' }
  await t.rejects(result(native.dmCreate('native', 'TEST-other')), EBUSY)
  await t.rejects(result(native.dmCreate('other', uuid)), EBUSY)
  const load = (...table: Parameters<typeof rows>) =>
    result(native.dmLoad({ uuid }, rows(...table), ['1:0'], false))
  await t.rejects(
    load([0, 8, 0, 1e12]),
    { code: 'EINVAL', syscall: 'DM_TABLE_LOAD' },
    'past the disk',
  )
  await t.rejects(load([0, 8, 0, 0], [16, 8, 0, 0]), { code: 'EINVAL' }, 'a gap')
  await result(native.dmRemove({ uuid }, false, 0))

  const host = makeHost('ext4', '0 65536 linear 1:1 0', { name: 'claims' })
  sh(
    'losetup /dev/loop1 /dev/ram0; mkfs.ext4 -qF /dev/loop1; mkdir -p /tmp/plain; mount /dev/loop1 /tmp/plain',
  )
  await result(native.dmCreate('native', uuid))
  await t.rejects(result(native.dmLoad({ uuid }, rows([0, 8, 0, 0]), ['7:1'], false), 'native'), {
    code: 'EBUSY',
    syscall: 'DM_TABLE_LOAD',
    path: 'native',
  })
  await result(native.dmRemove({ uuid }, false, 0))
  sh('umount /tmp/plain; losetup -d /dev/loop1')
  host.remove()
})

await t.test('a table too large for the first buffer', async (t) => {
  const COUNT = 20_000
  const table = new Float64Array(COUNT * 4)
  for (let i = 0; i < COUNT; i++) table.set([i, 1, 0, (i * 7919) % 100_003], i * 4)
  await result(native.dmCreate('native', uuid))
  await result(native.dmLoad({ uuid }, table, ['1:0'], true))
  await result(native.dmResume({ uuid }, 0))
  const live = await result(native.dmTable({ uuid }, false))
  t.equal(live.device.targetCount, COUNT)
  t.ok(
    Buffer.from(live.rows.buffer).equals(Buffer.from(table.buffer)),
    'comes back as it was loaded',
  )
  t.equal(live.device.flags & 1, 1, 'read-only')
  await result(native.dmRemove({ uuid }, false, 0))
})

await t.test('more devices than the first buffer lists', async (t) => {
  const names = Array.from({ length: 150 }, (_, i) => `${'long-name-'.repeat(11)}${i}`)
  for (const name of names) await result(native.dmCreate(name, `TEST-${name}`))
  t.strictSame((await result(native.dmList())).map(({ name }) => name).sort(), [...names].sort())
  for (const name of names) await result(native.dmRemove({ name }, false, 0))
})

await t.test('cookies', async (t) => {
  const { handle, base } = await result(native.createCookie())
  t.equal(leftCookies().length, 1, 'dmsetup sees it')
  t.equal(await result(native.pendingEvents(handle)), 1)
  sh(`dmsetup udevcomplete ${base}`)
  t.equal(await result(native.pendingEvents(handle)), 0, 'and counts it down')
  t.equal(await result(native.sweepCookies()), 0, 'its maker lives')
  await result(native.destroyCookie(handle))
  t.equal(leftCookies().length, 0)
  await t.rejects(result(native.pendingEvents(handle)), { code: 'EINVAL', syscall: 'semctl' })
})

await t.test('extents of odd ranges and files', async (t) => {
  const host = makeHost('ext4', oneSegment(), { name: 'host' })
  randomFile(`${host.path}/image`, 65536)
  const file = await open(`${host.path}/image`)
  const facts = await result(native.walkExtents(file.fd, 'FIEMAP', 4096, 8192, 512))
  const rows = native.extentRows(facts.extents, 0, 2)
  t.strictSame([rows[0], rows[2], rows.length, facts.count], [4096, 8192, 4, 1], 'clipped')
  const past = await result(native.walkExtents(file.fd, 'FIEMAP', 65536, 65536, 512))
  t.match(past.holes, { count: 1, offset: 65536, length: 65536 }, 'past the end is a hole')
  const folder = await open('/tmp', 'r')
  await t.rejects(result(native.walkExtents(folder.fd, 'FIEMAP', 0, 4096, 512)), {
    code: 'ENOTSUP',
    syscall: 'FS_IOC_FIEMAP',
  })
  await file.close()
  await folder.close()
  await t.rejects(result(native.walkExtents(999, 'FIEMAP', 0, 4096, 512)), { code: 'EBADF' })
  await t.rejects(result(native.inspect(999)), { code: 'EBADF', syscall: 'statx' })
  host.remove()
})
