// Nodes, holders, names and races; run with udevd and without.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import {
  listMappings,
  mapFile,
  openMapping,
  planFile,
  type DmloopError,
  type MappedDevice,
  type Plan,
} from 'dmloop'
import {
  deviceNames,
  fileState,
  leftCookies,
  leftFiles,
  makeHost,
  oneSegment,
  randomFile,
  scaled,
  sh,
  spread,
  UDEV,
} from './lab.js'

/** udev takes its time. */
const ROUNDS = scaled(UDEV ? 80 : 200)
const host = makeHost('ext4', oneSegment(), { name: 'host' })
const file = `${host.path}/image`
randomFile(file, 1 << 20)

const clean = (t: Test): void => {
  t.strictSame(deviceNames(), ['host'], 'no device is left')
  t.strictSame(leftFiles(), [], 'no record or node is left')
  t.strictSame(leftCookies(), [], 'no cookie is left')
}

/** Whether a guard holds the file. */
const isHeld = (): boolean => /^-+i/.test(sh(`lsattr ${file}`))

/** Reads a block, through a descriptor of its own. */
function readable(path: string): boolean {
  const device = openSync(path, 'r')
  const count = readSync(device, Buffer.alloc(512))
  closeSync(device)
  return count === 512
}

const PEER = fileURLToPath(new URL('peer.js', import.meta.url))
/** Another process does something with a mapping and says how it went. */
const peer = async (...args: string[]): Promise<string> =>
  (await promisify(execFile)(process.execPath, [PEER, ...args])).stdout.trim()

await t.test(`${ROUNDS} times in a row the node is there and gone`, async (t) => {
  let opened = 0
  let gone = 0
  for (let round = 0; round < ROUNDS; round++) {
    const device = await mapFile(file, { name: 'round' })
    if (readable('/dev/mapper/round')) opened++
    await device.unmap()
    if (!existsSync('/dev/mapper/round')) gone++
  }
  t.equal(opened, ROUNDS, 'it opened the moment mapFile resolved')
  t.equal(gone, ROUNDS, 'it was gone when unmap resolved')
  clean(t)
})

await t.test('a device that is held open', async (t) => {
  const device = await mapFile(file)
  const holder = openSync(device.path, 'r')
  const start = performance.now()
  const error = await device.unmap({ timeout: 700 }).catch((error: unknown) => error as DmloopError)
  const took = performance.now() - start
  t.match(error, { code: 'DMLOOP_STILL_OPEN', cause: { code: 'EBUSY', syscall: 'DM_DEV_REMOVE' } })
  t.match(String(error), new RegExp(`process ${process.pid} `), 'the holder is named')
  t.ok(took >= 700 && took < 3000, `inside its timeout: ${took.toFixed()} ms`)
  t.ok(readable(device.path), 'the device is as it was')
  t.strictSame(await device.verify(), { ok: true, problems: [] })

  await device.unmap({ deferred: true })
  t.strictSame(deviceNames(), ['host', 'image'], 'deferred: there while it is open')
  await t.rejects(mapFile(file, { name: 'other' }), { code: 'DMLOOP_ALREADY_MAPPED' })
  closeSync(holder)
  for (let wait = 0; wait < 100 && deviceNames().length > 1; wait++) sh('sleep 0.05')
  t.strictSame(deviceNames(), ['host'], 'and gone when it is closed')
  t.ok(!existsSync(device.path) || !readable(device.path), 'nor does its node open')
  // Of itself, as long as this process lives.
  for (let wait = 0; wait < 100 && isHeld(); wait++) await sleep(50)
  t.ok(!isHeld(), 'then the file is let go')
  await device.unmap()
  clean(t)

  // When the process is gone, by whatever call comes next; the timer did not keep it alive.
  const away = await peer('map-and-defer', file, 'away')
  t.equal(away, 'deferred')
  for (let wait = 0; wait < 100 && deviceNames().length > 1; wait++) await sleep(50)
  t.ok(isHeld(), 'nobody was there to let the file go')
  t.strictSame(await listMappings(), [])
  t.ok(!isHeld(), 'until somebody looked')

  // A second call does what is left, whatever the timer does.
  for (const finish of [
    (device: MappedDevice) => device.unmap(),
    (device: MappedDevice) => device[Symbol.asyncDispose](),
    (device: MappedDevice) => device.unmap({ deferred: true }),
  ]) {
    const deferred = await mapFile(file)
    const open = openSync(deferred.path, 'r')
    await deferred.unmap({ deferred: true })
    await t.rejects(deferred.unmap({ timeout: 50 }), { code: 'DMLOOP_STILL_OPEN' })
    closeSync(open)
    await finish(deferred)
    t.ok(!isHeld(), 'finished when it resolves')
    clean(t)
  }

  const again = await mapFile(file)
  await again.unmap()
  clean(t)
})

await t.test('mounted, swapped on, mapped upon: the holder is named', async (t) => {
  const device = await mapFile(file)
  sh(`mkfs.ext4 -q ${device.path}; mkdir -p /tmp/inner; mount ${device.path} /tmp/inner`)
  await t.rejects(device.unmap({ timeout: 100 }), { message: /the mount \/tmp\/inner/ })
  sh('umount /tmp/inner')
  const script = `mount ${device.path} /tmp/inner; echo mounted; exec sleep 1000`
  const other = spawn('unshare', ['-m', 'sh', '-ec', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(other.stdout, 'data')
  t.equal(sh('mountpoint -q /tmp/inner || echo hidden'), 'hidden\n')
  const elsewhere = new RegExp(`the mount /tmp/inner of process ${other.pid} \\(s`)
  await t.rejects(device.unmap({ timeout: 100 }), { message: elsewhere }, 'in another namespace')
  other.kill('SIGKILL')
  await once(other, 'exit')
  sh('dmsetup create above', `0 2048 linear ${device.path} 0`)
  const above = /the device “above” \(\/dev\/mapper\/above\)/
  await t.rejects(device.unmap({ timeout: 100 }), { message: above })
  sh(`dmsetup remove --retry above; mkswap ${device.path}; swapon ${device.path}`)
  await t.rejects(device.unmap({ timeout: 100 }), { message: /the swap space on \/dev\// })
  const loop = sh(`swapoff ${device.path}; losetup -f --show ${device.path}`).trim()
  await t.rejects(device.unmap({ timeout: 100 }), {
    message: new RegExp(`the loop device ${loop}`),
  })
  sh(`losetup -d ${loop}`)
  await device.unmap()

  // Its mounts have a device number of btrfs's own.
  const large = `${host.path}/large`
  randomFile(large, 32 << 20)
  const volume = await mapFile(large)
  sh(`mkfs.btrfs -q -f -M ${volume.path}; mount ${volume.path} /tmp/inner`)
  await t.rejects(volume.unmap({ timeout: 100 }), { message: /the mount \/tmp\/inner[ ,]/ })
  sh('umount /tmp/inner')
  await volume.unmap()
  sh(`rm ${large}`)
  clean(t)
})

await t.test('one file, one mapping', async (t) => {
  sh(`ln ${file} ${host.path}/hard-link; ln -s image ${host.path}/soft-link`)
  const device = await mapFile(file)
  for (const path of [file, `${host.path}/hard-link`, `${host.path}/soft-link`]) {
    await t.rejects(mapFile(path, { name: 'twin' }), { code: 'DMLOOP_ALREADY_MAPPED' }, path)
    t.equal((await openMapping(path)).name, device.name)
  }
  await device.unmap()

  for (let round = 0; round < scaled(5); round++) {
    const outcomes = await Promise.all([
      peer('map', file, 'first'),
      peer('map', file, 'second'),
      peer('map', `${host.path}/hard-link`, 'third'),
    ])
    t.strictSame(
      outcomes.map((outcome) => outcome.replace(/^mapped .*/, 'mapped')).sort(),
      ['DMLOOP_ALREADY_MAPPED', 'DMLOOP_ALREADY_MAPPED', 'mapped'],
      'of three processes one wins',
    )
    const [winner] = await listMappings()
    await winner?.unmap()
  }
  const settled = await Promise.allSettled([mapFile(file), mapFile(file), mapFile(file)])
  t.equal(settled.filter((each) => each.status === 'fulfilled').length, 1, 'and of three calls one')
  await (await openMapping(file)).unmap()
  sh(`rm ${host.path}/hard-link ${host.path}/soft-link`)
  clean(t)
})

await t.test('names that are taken are followed by numbers', async (t) => {
  const long = 'n'.repeat(130)
  const folders = ['one', 'two', 'three']
  for (const folder of folders) {
    sh(`mkdir ${host.path}/${folder}`)
    for (const name of ['image', 'control', '( )', long]) {
      randomFile(`${host.path}/${folder}/${name}`, 65536)
    }
  }
  const taken = [
    ['image', 'image', 'image-1', 'image-2'],
    ['control', 'control-1', 'control-2', 'control-3'],
    ['( )', '___', '___-1', '___-2'],
    [long, long.slice(0, 127), `${long.slice(0, 125)}-1`, `${long.slice(0, 125)}-2`],
  ] as const
  for (const [file, ...names] of UDEV ? spread(taken) : taken) {
    for (const backend of ['linear', 'loop'] as const) {
      const paths = folders.map((folder) => `${host.path}/${folder}/${file}`)
      const devices = await Promise.all(paths.map((path) => mapFile(path, { backend })))
      t.strictSame(devices.map(({ name }) => name).sort(), [...names].sort(), `${file}, ${backend}`)
      for (const device of devices) {
        t.ok(readable(device.path))
        t.match(await openMapping(device.name), { uuid: device.uuid, path: device.path })
        await device.unmap()
      }
    }
    // Each kind gets out of the other's way.
    const one = await mapFile(`${host.path}/one/${file}`, { backend: 'loop' })
    const two = await mapFile(`${host.path}/two/${file}`)
    const three = await mapFile(`${host.path}/three/${file}`, { backend: 'loop' })
    t.strictSame([one.name, two.name, three.name], names)
    for (const device of [two, one, three]) await device.unmap()
  }
  clean(t)

  for (let round = 0; round < scaled(3); round++) {
    for (const verb of ['map', 'map-loop']) {
      const outcomes = await Promise.all(
        folders.map((folder) => peer(verb, `${host.path}/${folder}/image`)),
      )
      t.notMatch(outcomes.join(), /DMLOOP_/, `${verb}: three processes at once`)
      const names = (await listMappings()).map(({ name }) => name)
      t.strictSame(names, ['image', 'image-1', 'image-2'])
      for (const mapping of await listMappings()) await mapping.unmap()
    }
  }
  const device = await mapFile(`${host.path}/one/image`)
  await t.rejects(mapFile(`${host.path}/two/image`, { name: 'image' }), {
    code: 'DMLOOP_NAME_TAKEN',
  })
  await device.unmap()
  sh(`rm -r ${folders.map((folder) => `${host.path}/${folder}`).join(' ')}`)
  clean(t)
})

await t.test('any process can find and unmap it', async (t) => {
  t.equal(await peer('map', file, 'theirs'), 'mapped /dev/mapper/theirs')
  const number = statSync('/dev/mapper/theirs').rdev & 0xff
  for (const name of ['theirs', '/dev/mapper/theirs', `/dev/dm-${number}`, file]) {
    const found = await openMapping(name)
    t.match(
      found,
      { name: 'theirs', path: '/dev/mapper/theirs', size: 1 << 20, files: [file] },
      name,
    )
  }
  const [listed] = await listMappings()
  t.match(listed, { name: 'theirs', readOnly: false, segmentCount: 1, backend: 'linear' })
  t.strictSame(await listed?.verify(), { ok: true, problems: [] })
  await listed?.unmap()
  t.strictSame(await listMappings(), [])

  const ours = await mapFile(file, { name: 'ours' })
  t.equal(await peer('unmap', 'ours'), 'unmapped')
  await ours.unmap()
  t.equal(await peer('map', file, 'ours'), 'mapped /dev/mapper/ours')
  await ours.unmap()
  t.strictSame(deviceNames(), ['host', 'ours'], 'an old object does not touch a new mapping')
  t.equal(await peer('unmap', 'ours'), 'unmapped')

  const NOT_MAPPED = { name: 'DmloopError', code: 'DMLOOP_NOT_MAPPED' }
  for (const name of ['host', 'nothing']) {
    await t.rejects(openMapping(name), { ...NOT_MAPPED, message: new RegExp(`“${name}”`) })
  }
  for (const path of ['/dev/mapper/host', file, '/dev/ram0']) {
    await t.rejects(openMapping(path), { ...NOT_MAPPED, file: path, message: new RegExp(path) })
  }
  await t.rejects(openMapping('/dev/mapper/nothing'), { code: 'ENOENT' })
  clean(t)
})

await t.test('a process that is killed leaves nothing that is in the way', async (t) => {
  const state = fileState(file)
  for (const pause of spread([0, 20, 40, 60, 80, 100, 150, 200])) {
    const child = spawn(process.execPath, [PEER, 'loop', file, 'victim'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await new Promise((resolve) => child.stdout.once('data', resolve))
    sh(`sleep 0.${String(pause).padStart(3, '0')}`)
    child.kill('SIGKILL')
    await new Promise((resolve) => child.once('exit', resolve))
    for (const left of await listMappings()) await left.unmap()
    const device = await mapFile(file, { name: 'victim' })
    t.ok(readable(device.path), `killed after ${pause} ms`)
    await device.unmap()
    t.equal(fileState(file), state, 'the file is as it was')
  }
  clean(t)
})

await t.test('without root a plan tells what it can, and nothing is mapped', async (t) => {
  sh(`chmod 644 ${file}`)
  const plan = JSON.parse(await peer('plan-as-nobody', file)) as Plan
  t.strictSame(plan.extents, [...(await planFile(file)).extents], 'the extents are all there')
  t.match(plan.problems, [
    { code: 'DMLOOP_NO_DEVICE_MAPPER', message: /EACCES/, remedy: /root/, file, blocks: 'linear' },
  ])
  t.equal(await peer('map-as-nobody', file, 'theirs'), 'DMLOOP_NO_DEVICE_MAPPER')
  clean(t)
})

await t.test('left-over nodes', async (t) => {
  mkdirSync('/dev/mapper', { recursive: true })
  symlinkSync('../nothing', '/dev/mapper/image')
  const device = await mapFile(file)
  t.ok(readable(device.path), 'a dangling link is replaced')
  await device.unmap()
  sh('mknod /dev/mapper/image b 1 1')
  const again = await mapFile(file)
  t.equal(sh(`blockdev --getsize64 ${again.path}`), `${1 << 20}\n`, 'a node of another device too')
  await again.unmap()
  clean(t)
})

await t.test('aborted', async (t) => {
  const reason = new Error('no longer wanted')
  await t.rejects(mapFile(file, { signal: AbortSignal.abort(reason) }), reason)
  for (const pause of [1, 5, 10, 20, 40, 80]) {
    const abort = new AbortController()
    const timer = setTimeout(() => abort.abort(reason), pause)
    const outcome = await mapFile(file, { signal: abort.signal }).catch((error: unknown) => error)
    clearTimeout(timer)
    if (outcome === reason) t.pass(`after ${pause} ms`)
    else await (outcome as MappedDevice).unmap()
    clean(t)
  }
  const device = await mapFile(file)
  const holder = openSync(device.path, 'r')
  const signal = AbortSignal.timeout(100)
  await t.rejects(device.unmap({ signal }), { name: 'TimeoutError' })
  closeSync(holder)
  await device[Symbol.asyncDispose]()
  await device.unmap()
  clean(t)
})

host.remove()
