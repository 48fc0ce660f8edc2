// A wrapped device, and the example that shows what it is for.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { listMappings, mapFile, openMapping, planFile, wrapDevice } from 'dmloop'
import { deviceNames, leftFiles, randomFile, sh } from './lab.js'

const OK = { ok: true, problems: [] }

await t.test('the example', (t) => {
  const example = fileURLToPath(new URL('../../examples/wrap.js', import.meta.url))
  const said = execFileSync(process.execPath, [example, '/dev/ram0'], { encoding: 'utf8' })
  t.match(said, /^\/dev\/ram0 is \/dev\/mapper\/wrapped$/m)
  t.match(said, /^0 \d+ linear 1:0 \d+$/m, 'its segments are on the disk')
  t.match(said, /^device and file are the same$/m)
  t.match(said, /^\/dev\/ram0 is itself again$/m)
  t.strictSame([deviceNames(), leftFiles()], [[], []])
  t.end()
})

await t.test('a wrapped device', async (t) => {
  const size = Number(sh('blockdev --getsize64 /dev/ram0'))
  const wrapped = await wrapDevice('/dev/ram0', { name: 'whole' })
  t.match(wrapped, {
    name: 'whole',
    path: '/dev/mapper/whole',
    backend: 'linear',
    size,
    readOnly: false,
    segmentCount: 1,
    files: [],
  })
  t.equal(sh('dmsetup table whole'), `0 ${size / 512} linear 1:0 0\n`)
  t.strictSame(await wrapped.verify(), OK)
  await wrapped.extend()
  t.match(await openMapping('whole'), { uuid: wrapped.uuid, size })
  t.strictSame(
    (await listMappings()).map(({ name }) => name),
    ['whole'],
  )
  const again = wrapDevice('/dev/ram0', { name: 'twice' })
  await t.rejects(again, { code: 'DMLOOP_ALREADY_MAPPED', message: /mapper\/whole/ })
  await t.rejects(wrapDevice('/dev/ram1', { name: 'whole' }), { code: 'DMLOOP_NAME_TAKEN' })

  // A filesystem on it, a file on that, and the file's own device: one does not overlap the other.
  sh('mkfs.ext4 -q /dev/mapper/whole; mkdir /tmp/at; mount /dev/mapper/whole /tmp/at')
  randomFile('/tmp/at/image', 1 << 20)
  const device = await mapFile('/tmp/at/image')
  t.match([...(await planFile('/tmp/at/image')).segments], [{ device: '1:0' }])
  await t.rejects(wrapped.unmap({ timeout: 0 }), {
    code: 'DMLOOP_STILL_OPEN',
    message: /the mount \/tmp\/at/,
  })
  await device.unmap()
  sh('umount /tmp/at')
  const same = await openMapping('/dev/mapper/whole')
  await same.unmap()
  await wrapped.unmap()
  t.strictSame([deviceNames(), leftFiles()], [[], []])
})

await t.test('what cannot be wrapped', async (t) => {
  sh('mkfs.ext4 -q /dev/ram1; mount /dev/ram1 /tmp/at')
  await t.rejects(wrapDevice('/dev/ram1', { name: 'held' }), {
    code: 'DMLOOP_DEVICE_CLAIMED',
    message: /is held by the mount \/tmp\/at/,
  })
  randomFile('/tmp/at/image', 1 << 20)
  await t.rejects(mapFile('/tmp/at/image'), {
    code: 'DMLOOP_DEVICE_CLAIMED',
    remedy: /wrapDevice/,
  })
  sh('umount /tmp/at')
  await t.rejects(wrapDevice('/tmp/at', { name: 'x' }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.rejects(wrapDevice('/dev/nothing', { name: 'x' }), { code: 'ENOENT' })
  await t.rejects(wrapDevice('/dev/ram1', { name: 'a/b' }), { code: 'DMLOOP_NAME_INVALID' })
  const nameless = wrapDevice('/dev/ram1', {} as { name: string })
  await t.rejects(nameless, { code: 'ERR_INVALID_ARG_TYPE' })
  t.strictSame([deviceNames(), leftFiles()], [[], []])
})

await t.test('half-made by a crash, and read-only', async (t) => {
  sh('dmsetup create --notable -u DMLOOP_WRAP-1-1 broken; blockdev --setro /dev/ram1')
  const wrapped = await wrapDevice('/dev/ram1', { name: 'whole' })
  t.strictSame(deviceNames(), ['whole'])
  t.equal(wrapped.readOnly, true)
  sh('blockdev --setrw /dev/ram1; dmsetup reload whole --table "0 8 error"; dmsetup resume whole')
  t.match(await wrapped.verify(), { ok: false, problems: [{ code: 'DMLOOP_FILE_CHANGED' }] })
  await wrapped.unmap()
  t.strictSame([deviceNames(), leftFiles()], [[], []])
})
