// The loop backend: a loop device where no table of segments can be, and the same MappedDevice.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { listMappings, mapFile, openMapping, planFile, releaseFile, type DmloopError } from 'dmloop'
import {
  deviceNames,
  fileState,
  fragmentedFile,
  leftFiles,
  makeHost,
  oneSegment,
  randomFile,
  randomNumbers,
  sh,
  sha256,
} from './lab.js'
import { roundTrip } from './round-trip.js'

const OK = { ok: true, problems: [] }
const random = randomNumbers(11)
const host = makeHost('ext4', oneSegment(0), { name: 'host' })
sh('mkdir /tmp/plain /run/dmloop; mkfs.xfs -q -f /dev/ram1; mount /dev/ram1 /tmp/plain')

/** Whether tmpfs does direct I/O, as it does from Linux 6.6 on. */
const directOnTmpfs =
  sh(
    'head -c 4K /dev/zero >/tmp/probe; dd if=/tmp/probe iflag=direct bs=4K status=none | wc -c',
  ) === '4096\n'

/** What of loop devices and mappings there is. */
const left = () => ({
  devices: deviceNames(),
  files: leftFiles(),
  loops: sh('losetup -l --noheadings'),
})
const nothing = left()

await t.test('there and back', async (t) => {
  for (const [path, directIo] of [
    [host.path, true],
    ['/tmp/plain', true],
    ['/tmp', directOnTmpfs],
  ] as const) {
    for (const [index, bytes] of [512, 70_144, 5 << 20].entries()) {
      const file = `${path}/image-${index}`
      // On tmpfs there are no extents to speak of.
      if (path === '/tmp') randomFile(file, bytes)
      else fragmentedFile(file, bytes, 1 + index * 20, index)
      const before = fileState(file)
      const segments = await roundTrip(t, file, { backend: 'loop', verify: 'full' }, random)
      t.equal(segments, 1)
      t.not(fileState(file), before, 'it was written to')
      const device = await mapFile(file, { backend: 'loop', readOnly: true })
      const name = `image-${index}`
      t.match(device, { backend: 'loop', directIo, readOnly: true, fallback: [], name })
      t.match(device.path, /^\/dev\/loop\d+$/)
      t.throws(() => sh(`dd if=/dev/zero of=${device.path} bs=512 count=1 conv=fsync status=none`))
      await device.unmap()
      await device.unmap()
    }
  }
  sh(`rm ${host.path}/.filler /tmp/plain/.filler; sync`)
  t.strictSame(left(), nothing)
})

await t.test('a part of a file', async (t) => {
  const file = `${host.path}/part`
  randomFile(file, 1 << 20)
  const device = await mapFile(file, { backend: 'loop', offset: 65536, length: 131072 })
  t.equal(device.size, 131072)
  const part = sh(`tail -c +65537 ${file} | head -c 131072 | sha256sum`).slice(0, 64)
  t.equal(await sha256(device.path, 131072), part)
  t.strictSame(await device.verify({ content: 'full' }), OK)
  await device.unmap()
})

await t.test('auto: linear where it can be, else loop, with the reason', async (t) => {
  const sparse = `${host.path}/sparse`
  randomFile(sparse, 1 << 20)
  sh(`truncate -s 2M ${sparse}; sync ${sparse}`)
  const solid = `${host.path}/solid`
  for (const file of [solid, '/tmp/plain/solid', '/tmp/solid']) randomFile(file, 1 << 20)
  for (const [file, backend, codes, directIo] of [
    [solid, 'linear', [], true],
    [sparse, 'loop', ['DMLOOP_HOLE'], true],
    ['/tmp/plain/solid', 'loop', ['DMLOOP_DEVICE_CLAIMED'], true],
    ['/tmp/solid', 'loop', ['DMLOOP_UNSUPPORTED_FILESYSTEM'], directOnTmpfs],
  ] as const) {
    const plan = await planFile(file, { backend: 'auto' })
    t.equal(plan.backend, backend, file)
    t.strictSame(plan.problems, [])
    t.strictSame(plan.fallback.map(({ code }) => code).slice(0, 1), codes)
    const device = await mapFile(file, { backend: 'auto' })
    t.match(device, { backend, directIo, size: plan.size })
    t.strictSame(device.fallback.map(({ code }) => code).slice(0, 1), codes)
    t.equal(await sha256(device.path, device.size), await sha256(file, device.size))
    t.strictSame(await device.verify({ content: 'full' }), OK)
    const again = await openMapping(device.path)
    t.strictSame(again.fallback, device.fallback, 'the reason is there for everyone')
    await again.unmap()
  }
  t.strictSame(left(), nothing)
  await t.rejects(mapFile(host.path, { backend: 'auto' }), { code: 'DMLOOP_NOT_REGULAR_FILE' })
  sh(': >/tmp/empty')
  await t.rejects(mapFile('/tmp/empty', { backend: 'auto' }), { code: 'DMLOOP_EMPTY_FILE' })
})

await t.test('partitions', async (t) => {
  const file = `${host.path}/disk`
  const sector = Buffer.alloc(512)
  // A DOS partition table: type 0x83, from sector 8, 1,000 of them.
  sector[446 + 4] = 0x83
  sector.writeUInt32LE(8, 446 + 8)
  sector.writeUInt32LE(1000, 446 + 12)
  sector.writeUInt16LE(0xaa55, 510)
  writeFileSync(file, Buffer.concat([sector, Buffer.alloc(1 << 20)]))
  const parts = (path: string): string =>
    sh(`ls -d /sys${path.replace('/dev', '/block')}/loop*p* 2>/dev/null || true`)
  const without = await mapFile(file, { backend: 'loop' })
  t.equal(parts(without.path), '')
  await without.unmap()
  const device = await mapFile(file, { backend: 'loop', partitions: true })
  t.match(parts(device.path), /loop\d+p1/)
  sh(`mkfs.ext2 -q ${device.path}p1; mkdir /tmp/part; mount ${device.path}p1 /tmp/part`)
  await t.rejects(device.unmap({ timeout: 100 }), { message: /the mount \/tmp\/part[ ,]/ })
  sh('umount /tmp/part')
  await device.unmap()
})

await t.test('one file, one mapping, whichever the backend', async (t) => {
  const file = `${host.path}/once`
  randomFile(file, 1 << 20)
  const MAPPED = { code: 'DMLOOP_ALREADY_MAPPED', file }
  const loop = await mapFile(file, { backend: 'loop', name: 'first' })
  for (const backend of ['linear', 'loop', 'auto'] as const) {
    await t.rejects(mapFile(file, { backend, name: 'second' }), MAPPED)
  }
  await t.rejects(releaseFile(file), MAPPED)
  const listed = await listMappings()
  t.strictSame(
    listed.map(({ name, backend }) => [name, backend]),
    [['first', 'loop']],
  )
  for (const way of ['first', file, loop.path]) {
    t.match(await openMapping(way), { path: loop.path, uuid: loop.uuid, files: [file] }, way)
  }
  const other = `${host.path}/other`
  randomFile(other, 1 << 20)
  for (const name of ['first', 'host']) {
    await t.rejects(mapFile(other, { backend: 'loop', name }), { code: 'DMLOOP_NAME_TAKEN' }, name)
  }
  await (await openMapping('first')).unmap()
  await t.rejects(openMapping('first'), { code: 'DMLOOP_NOT_MAPPED' })

  const linear = await mapFile(file, { name: 'first' })
  await t.rejects(mapFile(file, { backend: 'loop', name: 'second' }), MAPPED)
  await t.rejects(mapFile(other, { backend: 'loop', name: 'first' }), { code: 'DMLOOP_NAME_TAKEN' })
  await linear.unmap()
  const looped = await mapFile(other, { backend: 'loop', name: 'first' })
  await t.rejects(mapFile(file, { name: 'first' }), { code: 'DMLOOP_NAME_TAKEN' })
  await looped.unmap()

  const races = await Promise.allSettled(
    [1, 2, 3, 4].map((n) => mapFile(file, { backend: 'loop', name: `racer-${n}` })),
  )
  t.equal(races.filter((race) => race.status === 'fulfilled').length, 1, 'of four at once one wins')
  for (const race of races) {
    if (race.status === 'rejected') t.match(race.reason, MAPPED)
    else await race.value.unmap()
  }
  t.strictSame(left(), nothing)
})

await t.test('held open, and deferred', async (t) => {
  const file = `${host.path}/held`
  randomFile(file, 1 << 20)
  const device = await mapFile(file, { backend: 'loop' })
  const holder = openSync(device.path, 'r')
  const failed = await device.unmap({ timeout: 200 }).catch((error: unknown) => error)
  const error = failed as DmloopError
  t.equal(error.code, 'DMLOOP_STILL_OPEN')
  t.match(error.message, new RegExp(`process ${process.pid} `))
  closeSync(holder)
  t.match(sh(`losetup -l --noheadings -O AUTOCLEAR ${device.path}`), /0/, 'it is to stay')
  t.strictSame(await device.verify(), OK)

  const own = openSync(device.path, 'r')
  const other = spawn('sleep', ['1000'], { stdio: [own, 'ignore', 'ignore'] })
  await once(other, 'spawn')
  closeSync(own)
  await device.unmap({ deferred: true, timeout: 200 })
  t.match(sh('losetup -l --noheadings'), /held/)
  other.kill('SIGKILL')
  await once(other, 'exit')
  for (let wait = 0; wait < 100 && sh('losetup -l --noheadings') !== ''; wait++) sh('sleep 0.05')
  t.strictSame(await listMappings(), [])
  // A call leaves the file alone while the driver has not finished with it.
  for (let wait = 0; wait < 100 && left().files.length > 0; wait++) {
    await sleep(50)
    await listMappings()
  }
  t.strictSame(left(), nothing)
})

await t.test('growing', async (t) => {
  const file = `${host.path}/growing`
  randomFile(file, 1 << 20)
  const device = await mapFile(file, { backend: 'loop' })
  await device.extend()
  t.equal(device.size, 1 << 20, 'nothing to extend by')
  sh(`head -c 1M /dev/urandom >>${file}; echo tail >>${file}; sync ${file}`)
  t.strictSame(await device.verify({ content: 'full' }), OK, 'what is mapped is as it was')
  await device.extend()
  t.equal(device.size, 2 << 20, 'to the last whole block')
  const grown = sh(`head -c 2M ${file} | sha256sum`).slice(0, 64)
  t.equal(await sha256(device.path, 2 << 20), grown)
  t.strictSame(await (await openMapping(device.name)).verify({ content: 'full' }), OK)
  sh(`truncate -s 512K ${file}`)
  t.match(await device.verify(), { ok: false, problems: [{ code: 'DMLOOP_OUT_OF_RANGE' }] })
  await device.unmap()
})

await t.test('several files are joined', async (t) => {
  const files = [`${host.path}/a`, '/tmp/plain/b', '/tmp/c']
  for (const [index, file] of files.entries()) randomFile(file, (index + 1) << 20)
  const device = await mapFile(files, { backend: 'loop', name: 'joined' })
  const path = '/dev/mapper/joined'
  t.match(device, { backend: 'loop', path, size: 6 << 20, segmentCount: 3, files })
  const together = (): Buffer => Buffer.concat(files.map((file) => readFileSync(file)))
  t.ok(readFileSync(path).equals(together()))
  t.strictSame(await device.verify({ content: 'full' }), OK)
  for (const way of ['joined', path, ...files]) {
    const found = await openMapping(way)
    t.match(found, { backend: 'loop', name: 'joined', files, directIo: directOnTmpfs }, way)
  }
  t.strictSame(
    (await listMappings()).map(({ name }) => name),
    ['joined'],
  )
  for (const file of files) {
    const again = mapFile(file, { backend: 'loop', name: 'x' })
    await t.rejects(again, { code: 'DMLOOP_ALREADY_MAPPED' })
  }
  sh(`dd if=/dev/urandom of=${path} bs=64K count=96 conv=fsync status=none`)
  const written = readFileSync(path)
  sh(`head -c 1M /dev/urandom >>${files[2]}`)
  await device.extend()
  t.equal(device.size, 7 << 20)
  t.strictSame(await device.verify({ content: 'full' }), OK)
  await (await openMapping('joined')).unmap()
  t.ok(
    together()
      .subarray(0, 6 << 20)
      .equals(written),
  )
  t.strictSame(left(), nothing)
})

await t.test('a part of several files that lies in one of them', async (t) => {
  const files = [`${host.path}/a`, '/tmp/plain/b']
  const device = await mapFile(files, { backend: 'loop', offset: 1 << 20, length: 1 << 20 })
  t.match(device, { segmentCount: 1, path: /loop/ })
  t.equal(await sha256(device.path, 1 << 20), await sha256('/tmp/plain/b', 1 << 20))
  for (const file of files) t.match(await openMapping(file), { path: device.path, files }, file)
  t.strictSame(await device.verify({ content: 'full' }), OK)
  await (await openMapping('/tmp/plain/b')).unmap()
  t.strictSame(left(), nothing)
})

await t.test('what cannot be', async (t) => {
  const file = `${host.path}/immutable`
  randomFile(file, 65536)
  sh(`chattr +i ${file}`)
  await t.rejects(mapFile(file, { backend: 'loop' }), { code: 'DMLOOP_READ_ONLY', file })
  await (await mapFile(file, { backend: 'loop', readOnly: true })).unmap()
  sh(`chattr -i ${file}`)
  const abort = new AbortController()
  abort.abort(new Error('enough'))
  const aborted = mapFile(file, { backend: 'loop', signal: abort.signal })
  await t.rejects(aborted, { message: 'enough' })
  t.strictSame(left(), nothing)
})

sh('umount /tmp/plain')
host.remove()
