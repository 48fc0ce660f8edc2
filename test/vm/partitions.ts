// The devices of partitions: used, held, renamed, removed and added by anybody, and gone with their mapping.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { listMappings, mapFile, openMapping, type MapOptions, type MappedDevice } from 'dmloop'
import { deviceNames, fileState, leftFiles, makeHost, oneSegment, quoted, sh, UDEV } from './lab.js'
import {
  byDriver,
  byKpartx,
  compareBytes,
  left,
  makeImage,
  MIB,
  rowsOf,
  settle,
  sfdisk,
  type Table,
} from './partition-images.js'

const PEER = fileURLToPath(new URL('peer.js', import.meta.url))
const execPeer = (...args: string[]): string => sh(quoted(process.execPath, PEER, ...args)).trim()
const OK = { ok: true, problems: [] }

mkdirSync('/tmp/part')
const host = makeHost('ext4', oneSegment(), { name: 'host' })
const file = `${host.path}/disk`
const nothing = left()
const clean = (t: Test): void => {
  t.strictSame(left(), nothing, 'nothing is left')
}

await t.test('what the table says of a partition', async (t) => {
  makeImage(file, {
    make: `sgdisk -n 1:0:+1M -n 2:0:+1M -t 2:8200 -u 1:11111111-2222-3333-4444-555555555555 \
             -c '1:a "b" \\c $d é' $DISK`,
    numbers: [1, 2],
  })
  const device = await mapFile(file, { partitions: true })
  const [one, two] = device.partitions
  t.match(one, {
    number: 1,
    uuid: '11111111-2222-3333-4444-555555555555',
    type: '0fc63daf-8483-4772-8e79-3d69d8477de4',
    name: 'a "b" \\c $d é',
  })
  t.match(two, { type: '0657fd6d-a4ab-43c4-84e5-0933c84b4f4f' })
  t.notOk('name' in (two ?? {}))
  t.match(sh(`lsblk -rno NAME,TYPE ${device.path}`), /^disk1 part$/m, 'lsblk')
  t.match(sh(`kpartx -l ${device.path}`), /^disk1 : 0 2048 \S+ 2048$/m, 'kpartx -l')
  sh(`rm /run/dmloop/*`)
  const found = await openMapping('disk')
  t.strictSame(
    found.partitions,
    [1, 2].map((number) => ({
      number,
      path: `/dev/mapper/disk${number}`,
      start: number * MIB,
      size: MIB,
    })),
    'without the record, what the kernel knows',
  )
  await found.unmap()
  clean(t)
})

// --- the life of partitions ----------------------------------------------------------------------------

makeImage(file, {
  size: 16,
  make: sfdisk(
    ...['label: dos', '1: size=1M', '2: size=9M, type=5', '3: size=512K'],
    ...[5, 6, 7].map((number) => `${number}: size=512K`),
  ),
  numbers: [1, 2, 3, 5, 6, 7],
})
const map = (options: MapOptions = {}): Promise<MappedDevice> =>
  mapFile(file, { partitions: true, ...options })
const NAMES = [1, 2, 3, 5, 6, 7].map((number) => `disk${number}`)

for (const backend of ['linear', 'loop'] as const) {
  await t.test(`a filesystem in a partition: ${backend}`, async (t) => {
    const image = `${host.path}/fs`
    makeImage(image, { size: 32, make: sfdisk('label: gpt', 'size=1M', 'size=20M'), numbers: [] })
    const device = await mapFile(image, { backend, partitions: true, name: 'disk2' })
    const [, two] = device.partitions
    t.equal(two?.path, backend === 'loop' ? `${device.path}p2` : '/dev/mapper/disk2p2')
    sh(`mkfs.ext4 -q ${two?.path}; mount ${two?.path} /tmp/part; echo written >/tmp/part/text`)
    const STILL_OPEN = { code: 'DMLOOP_STILL_OPEN', message: /the mount \/tmp\/part/ }
    await t.rejects(device.unmap({ timeout: 300 }), STILL_OPEN)
    t.strictSame((await openMapping(image)).partitions, device.partitions, 'all are still there')
    sh('umount /tmp/part')
    await device.unmap()
    clean(t)
    sh(`mount -o loop,ro,offset=${two?.start},sizelimit=${two?.size} ${image} /tmp/part`)
    t.equal(readFileSync('/tmp/part/text', 'utf8'), 'written\n', 'the file has it')
    sh(
      `umount /tmp/part; while losetup -l --noheadings | grep -q fs; do sleep 0.1; done; rm ${image}`,
    )
    clean(t)
  })
}

/** Has a process keep a device open; resolves to it once it does. */
async function hold(path: string): Promise<ChildProcess> {
  const holder = spawn('sh', ['-c', 'exec <"$0"; echo; exec sleep 1000', path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(holder.stdout, 'data')
  return holder
}

await t.test('who has a partition or the device open', async (t) => {
  const device = await map()
  for (const path of ['/dev/mapper/disk6', device.path]) {
    const holder = await hold(path)
    const message = new RegExp(`${device.path}: is still open by process ${holder.pid} \\(`)
    await t.rejects(device.unmap({ timeout: 100 }), {
      code: 'DMLOOP_STILL_OPEN',
      file: device.path,
      message,
    })
    t.strictSame(deviceNames(), ['disk', ...NAMES, 'host'], 'nothing is removed')
    holder.kill()
    await once(holder, 'exit')
  }
  sh(`dmsetup create on7`, `0 8 linear /dev/mapper/disk7 0\n`)
  await t.rejects(device.unmap({ timeout: 100 }), { message: /the device “on7”/ })
  sh('dmsetup remove --retry on7')
  await device.unmap()
  clean(t)
})

await t.test('found by a partition', async (t) => {
  const linear = await map()
  for (const way of ['disk5', '/dev/mapper/disk5']) {
    t.match(await openMapping(way), { name: 'disk', uuid: linear.uuid }, way)
  }
  t.strictSame(
    (await listMappings()).map(({ name }) => name),
    ['disk'],
    'a partition is no mapping',
  )
  await linear.unmap()
  const loop = await map({ backend: 'loop' })
  t.match(await openMapping(`${loop.path}p5`), { name: 'disk', path: loop.path })
  await loop.unmap()
  clean(t)
})

await t.test('renamed, removed and added by others', async (t) => {
  const device = await map()
  sh('dmsetup rename disk1 other; dmsetup remove --retry disk5')
  settle()
  const found = await openMapping('other')
  t.match(found.partitions[0], { number: 1, path: '/dev/mapper/other', type: '0x83' })
  t.equal(found.partitions.length, NAMES.length - 1)
  t.equal(execPeer('unmap', 'disk'), 'unmapped', 'another process unmaps')
  clean(t)

  const again = await map()
  sh(`kpartx -s -d ${again.path}`)
  settle()
  t.strictSame((await openMapping('disk')).partitions, [], 'kpartx -d')
  await device.unmap()
  await again.unmap()
  clean(t)

  const third = await map()
  sh(`dmsetup rename disk image`)
  settle()
  t.match(await openMapping(file), { name: 'image', partitions: { length: NAMES.length } })
  await third.unmap()
  clean(t)
})

await t.test('a partition with another table', async (t) => {
  const device = await map()
  sh(
    `dmsetup reload disk3 --table '0 1024 linear ${device.major}:${device.minor} 0'; dmsetup resume disk3`,
  )
  const { problems } = await device.verify()
  t.match(problems, [{ code: 'DMLOOP_BAD_PARTITION', file: '/dev/mapper/disk3' }])
  t.equal(problems.length, 1)
  await device.unmap()
  clean(t)
})

await t.test('read-only', async (t) => {
  for (const backend of ['linear', 'loop'] as const) {
    const device = await map({ readOnly: true, backend })
    t.equal(device.partitions.length, NAMES.length)
    for (const { path } of device.partitions) {
      t.equal(sh(`blockdev --getro ${path}`), '1\n', path)
      t.throws(() => sh(`dd if=/dev/zero of=${path} bs=512 count=1 conv=fsync status=none`))
    }
    await device.unmap()
  }
  clean(t)
})

await t.test('several files', async (t) => {
  sh(`head -c 3M ${file} >${host.path}/a; tail -c +${3 * MIB + 1} ${file} >${host.path}/b; sync`)
  const parts = [`${host.path}/a`, `${host.path}/b`]
  const expected = byKpartx(file, 512)
  for (const backend of ['linear', 'loop'] as const) {
    const device = await mapFile(parts, { backend, name: 'whole', partitions: true })
    t.strictSame(rowsOf(device), expected, backend)
    compareBytes(t, device, file)
    t.strictSame(sh('ls /dev/loop*p* 2>/dev/null || true'), '', 'none on the parts')
    t.strictSame((await openMapping(parts[1] as string)).partitions, device.partitions)
    t.strictSame(await device.verify({ content: 'full' }), OK)
    t.equal(execPeer('unmap', 'whole'), 'unmapped')
    clean(t)
  }
  sh(`rm ${parts.join(' ')}`)
})

await t.test('auto', async (t) => {
  const image = `${host.path}/auto`
  sh(`cp --sparse=never ${file} ${image}; sync ${image}`)
  const linear = await mapFile(image, { backend: 'auto', partitions: true })
  t.match(linear, { backend: 'linear', partitions: { length: NAMES.length } })
  await linear.unmap()
  sh(`truncate -s +1M ${image}; sync ${image}`)
  const loop = await mapFile(image, { backend: 'auto', partitions: true })
  t.match(loop, { backend: 'loop', partitions: { length: NAMES.length } })
  await loop.unmap()
  sh(`rm ${image}`)
  clean(t)
})

await t.test('deferred', async (t) => {
  const device = await map()
  const fd = openSync('/dev/mapper/disk6', 'r+')
  await device.unmap({ deferred: true })
  t.strictSame(deviceNames(), ['disk', 'disk6', 'host'])
  t.notOk(existsSync('/dev/mapper/disk6'))
  writeSync(fd, 'deferred')
  closeSync(fd)
  const end = performance.now() + 10_000
  while ((deviceNames().length > 1 || leftFiles().length > 0) && performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  settle()
  clean(t)
  t.match(readFileSync(file).toString('latin1'), 'deferred')
})

// --- failures ------------------------------------------------------------------------------------------

await t.test('the name of a partition is taken', async (t) => {
  const before = fileState(file)
  sh('dmsetup create disk5 --notable')
  await t.rejects(map(), { code: 'DMLOOP_NAME_TAKEN', message: /“disk5”/ })
  sh('dmsetup remove disk5')
  clean(t)
  await t.rejects(map({ name: 'n'.repeat(127) }), { code: 'DMLOOP_NAME_INVALID' })
  clean(t)
  t.equal(fileState(file), before)
})

await t.test('half-made partitions without a device', async (t) => {
  const device = await map()
  const { uuid } = device
  await device.unmap()
  sh(`dmsetup create disk3 -u part3-${uuid} --notable`)
  const again = await map()
  t.equal(again.partitions.length, NAMES.length)
  await again.unmap()
  clean(t)
})

await t.test('util-linux is missing, or slow', async (t) => {
  const before = fileState(file)
  const { PATH } = process.env
  t.teardown(() => (process.env.PATH = PATH))
  mkdirSync('/tmp/programs')
  process.env.PATH = '/tmp/programs'
  const NO_TOOL = { code: 'DMLOOP_NO_TOOL', message: /partx is not installed .*util-linux/ }
  for (const backend of ['linear', 'loop', 'auto'] as const)
    await t.rejects(map({ backend }), NO_TOOL)
  await (await mapFile(file)).unmap()

  writeFileSync(
    '/tmp/programs/partx',
    '#!/bin/sh\ncase $1 in --version) exit 0 ;; esac\nexec /bin/sleep 1000\n',
  )
  chmodSync('/tmp/programs/partx', 0o755)
  for (const backend of ['linear', 'loop'] as const) {
    await t.rejects(map({ backend, timeout: 700 }), { code: 'DMLOOP_TIMEOUT', message: /partx/ })
    const reason = new Error('enough')
    const abort = new AbortController()
    setTimeout(() => abort.abort(reason), 1500)
    await t.rejects(map({ backend, signal: abort.signal }), reason)
  }
  writeFileSync(
    '/tmp/programs/partx',
    '#!/bin/sh\n[ $1 = --version ] || { echo broken >&2; exit 1; }\n',
  )
  await t.rejects(map(), { message: /broken/ })
  process.env.PATH = PATH
  clean(t)
  t.equal(fileState(file), before)
})

await t.test('an image of a disk of 4096-byte sectors, on one', async (t) => {
  sh(`truncate -s 64M /tmp/4kn; losetup -b 4096 /dev/loop5 /tmp/4kn; losetup /dev/loop5 -n -O NAME
      dmsetup create 4kn --table "0 131072 linear /dev/loop5 0"
      mkfs.ext4 -q /dev/mapper/4kn; mkdir /tmp/on-4kn; mount /dev/mapper/4kn /tmp/on-4kn`)
  const devices = left()
  const image = '/tmp/on-4kn/disk'
  for (const [what, table] of Object.entries<Table>({
    'MBR of 4096-byte sectors': {
      sector: 4096,
      make: sfdisk('label: dos', 'size=1M', 'size=5M, type=5', 'size=512K', 'size=1M'),
      numbers: [1, 2, 3, 5],
    },
    'GPT of 512-byte sectors': {
      make: 'sgdisk -a 8 -n 1:64:+1M -n 2:0:+1M $DISK',
      numbers: [1, 2],
    },
    'GPT of 512-byte sectors, one unaligned': {
      make: 'sgdisk -a 1 -n 1:41:+1M -n 2:4096:+1M $DISK',
      numbers: [2],
      problems: [/partition 1 is not made of logical blocks of 4096 bytes/],
    },
  })) {
    makeImage(image, table)
    const expected = byDriver(image, table.sector ?? 512).filter(([n]) => table.numbers.includes(n))
    for (const backend of ['linear', 'loop'] as const) {
      const device = await mapFile(image, { backend, partitions: true })
      t.equal(sh(`blockdev --getss ${device.path}`), '4096\n')
      t.strictSame(rowsOf(device), expected, `${what}: ${backend}`)
      t.match(
        device.partitionProblems.map(({ message }) => message),
        table.problems ?? [],
      )
      t.equal(device.partitionProblems.length, table.problems?.length ?? 0)
      compareBytes(t, device, image)
      await device.unmap()
      t.strictSame(left(), devices)
    }
  }
  sh('umount /tmp/on-4kn; dmsetup remove --retry 4kn; losetup -d /dev/loop5; rm /tmp/4kn')
  clean(t)
})

await t.test('an image in a partition of an image', async (t) => {
  const image = `${host.path}/outer`
  makeImage(image, { size: 48, make: sfdisk('label: gpt', 'size=1M', 'size=40M'), numbers: [] })
  const outer = await mapFile(image, { partitions: true })
  sh('mkfs.ext4 -q /dev/mapper/outer2; mount /dev/mapper/outer2 /tmp/part')
  await t.rejects(mapFile('/tmp/part/none'), { code: 'ENOENT' })
  sh(`cp ${file} /tmp/part/inner; sync`)
  // A filesystem has its device to itself, whatever the device.
  const inner = await mapFile('/tmp/part/inner', { backend: 'auto', partitions: true })
  t.equal(inner.partitions.length, NAMES.length)
  compareBytes(t, inner, file)
  await t.rejects(outer.unmap({ timeout: 100 }), { code: 'DMLOOP_STILL_OPEN' })
  await inner.unmap()
  sh('umount /tmp/part')
  await outer.unmap()
  sh(`rm ${image}`)
  clean(t)
})

if (UDEV) {
  await t.test('udevScan', async (t) => {
    const image = `${host.path}/scanned`
    makeImage(image, { size: 24, make: sfdisk('label: gpt', 'size=8M', 'size=8M'), numbers: [] })
    for (const udevScan of [true, false]) {
      const device = await mapFile(image, { partitions: true, udevScan })
      sh(`mkfs.ext4 -q /dev/mapper/scanned2`)
      for (const action of ['change', 'add']) {
        const minor = statSync('/dev/mapper/scanned2').rdev & 0xff
        sh(`udevadm trigger --settle --action=${action} /sys/block/dm-${minor}`)
        const about = sh(`udevadm info -q all -n /dev/mapper/scanned2`)
        t.match(about, /^S: mapper\/scanned2$/m)
        t.equal(/ID_FS_UUID=/.test(about), udevScan, `udevScan: ${udevScan}, ${action}`)
      }
      await device.unmap()
    }
    sh(`rm ${image}`)
    clean(t)
  })
}

host.remove()
