// What must not be mapped is refused with its own code, range and remedy, and stays as it was.
import { closeSync, openSync } from 'node:fs'
import t from 'tap'
import { DmloopError, mapFile, planFile, type DmloopCode, type MapOptions } from 'dmloop'
import {
  deviceNames,
  fileState,
  leftFiles,
  makeHost,
  oneSegment,
  randomFile,
  sh,
  sha256,
} from './lab.js'

const ext4 = makeHost('ext4', oneSegment(0), { mkfs: '-O inline_data -I 1024' })
const xfs = makeHost('xfs', oneSegment(1), { mkfs: '-m reflink=1' })
const hosts = [ext4.name, xfs.name].sort()

interface Refusal {
  name: string
  /** Makes the file. */
  make: (file: string) => void
  options?: MapOptions
  code: DmloopCode
  offset?: number
  length?: number
  on?: ('ext4' | 'xfs')[]
}

const REFUSALS: Refusal[] = [
  {
    name: 'sparse',
    make: (file) => {
      randomFile(file, 1 << 20)
      sh(`fallocate -p -o 128K -l 64K ${file}; sync ${file}`)
    },
    code: 'DMLOOP_HOLE',
    offset: 131072,
    length: 65536,
  },
  {
    name: 'nothing-but-a-hole',
    make: (file) => void sh(`truncate -s 1M ${file}`),
    code: 'DMLOOP_HOLE',
    offset: 0,
    length: 1 << 20,
  },
  {
    name: 'unwritten',
    make: (file) => {
      // All of it at once: what is added later may be stored elsewhere, and be another extent.
      sh(`fallocate -l 256K ${file}
          dd if=/dev/urandom of=${file} bs=64K count=1 conv=notrunc,fsync status=none`)
    },
    code: 'DMLOOP_UNWRITTEN_EXTENT',
    offset: 65536,
    length: 196608,
  },
  {
    name: 'reflinked',
    make: (file) => {
      randomFile(file, 256 << 10)
      sh(`xfs_io -f -c 'reflink ${file} 64k 0 32k' ${file}.clone; sync ${file}`)
    },
    code: 'DMLOOP_SHARED_EXTENT',
    offset: 65536,
    length: 32768,
    on: ['xfs'],
  },
  {
    name: 'inline',
    make: (file) => {
      randomFile(file, 600)
    },
    code: 'DMLOOP_INLINE_DATA',
    offset: 0,
    length: 600,
    on: ['ext4'],
  },
  { name: 'empty', make: (file) => void sh(`: >${file}`), code: 'DMLOOP_EMPTY_FILE' },
  {
    name: 'under-a-block',
    make: (file) => {
      randomFile(file, 511)
    },
    code: 'DMLOOP_EMPTY_FILE',
  },
  { name: 'directory', make: (file) => void sh(`mkdir ${file}`), code: 'DMLOOP_NOT_REGULAR_FILE' },
  { name: 'fifo', make: (file) => void sh(`mkfifo ${file}`), code: 'DMLOOP_NOT_REGULAR_FILE' },
  {
    name: 'device-node',
    make: (file) => void sh(`mknod ${file} b 1 0`),
    code: 'DMLOOP_NOT_REGULAR_FILE',
  },
  {
    name: 'unaligned-offset',
    make: (file) => {
      randomFile(file, 65536)
    },
    options: { offset: 100 },
    code: 'DMLOOP_UNALIGNED',
  },
  {
    name: 'unaligned-length',
    make: (file) => {
      randomFile(file, 65536)
    },
    options: { length: 513 },
    code: 'DMLOOP_UNALIGNED',
    offset: 0,
    length: 513,
  },
  {
    name: 'past-the-end',
    make: (file) => {
      randomFile(file, 65536)
    },
    options: { offset: 32768, length: 65536 },
    code: 'DMLOOP_OUT_OF_RANGE',
    offset: 32768,
    length: 65536,
  },
  {
    name: 'data-journaled',
    make: (file) => {
      sh(`: >${file}; chattr +j ${file}`)
      randomFile(file, 65536)
    },
    code: 'DMLOOP_DATA_JOURNALED',
    on: ['ext4'],
  },
  {
    name: 'name-with-a-slash',
    make: (file) => {
      randomFile(file, 65536)
    },
    options: { name: 'a/b' },
    code: 'DMLOOP_NAME_INVALID',
  },
  {
    name: 'name-of-the-host',
    make: (file) => {
      randomFile(file, 65536)
    },
    options: { name: 'host-ext4' },
    code: 'DMLOOP_NAME_TAKEN',
  },
]

for (const { name, make, options, code, offset, length, on = ['ext4', 'xfs'] } of REFUSALS) {
  for (const filesystem of on) {
    await t.test(`${name} on ${filesystem}`, async (t) => {
      const file = `${filesystem === 'ext4' ? ext4.path : xfs.path}/${name}`
      make(file)
      const regular = code !== 'DMLOOP_NOT_REGULAR_FILE'
      const before = regular ? fileState(file) : ''
      const error: unknown = await mapFile(file, options).catch((error: unknown) => error)
      if (!(error instanceof DmloopError)) throw new Error(`not refused: ${String(error)}`)
      t.equal(error.code, code)
      t.ok(error.remedy.length > 10, error.remedy)
      t.ok(error.message.includes(error.remedy), 'the message carries the remedy')
      t.match(error.stack, /refusals\.(js|ts)/, 'the stack leads to the caller')
      if (offset !== undefined)
        t.strictSame([error.offset, error.length], [offset, length], 'range')
      t.equal(error.problems[0]?.code, code)
      if (!code.startsWith('DMLOOP_NAME')) {
        const { name: _, ...planOptions } = options ?? {}
        t.equal(
          (await planFile(file, planOptions)).problems[0]?.code,
          code,
          'the plan says the same',
        )
        t.equal(error.file, file)
      }
      if (regular) t.equal(fileState(file), before, 'the file is as it was')
      t.strictSame(deviceNames(), hosts, 'no device is left')
      t.strictSame(leftFiles(), [], 'no record or node is left')
    })
  }
}

await t.test('holes read as zeros on a read-only device', async (t) => {
  for (const { path } of [ext4, xfs]) {
    const file = `${path}/holes`
    randomFile(file, 1 << 20)
    sh(
      `fallocate -p -o 128K -l 64K ${file}; fallocate -o 1M -l 128K ${file}; truncate -s 2M ${file}; sync ${file}`,
    )
    const device = await mapFile(file, { readOnly: true, holes: 'zero' })
    t.equal(device.readOnly, true)
    t.equal(await sha256(device.path, 2 << 20), await sha256(file, 2 << 20))
    t.match(sh('dmsetup table holes'), /^256 128 zero $/m, 'the hole is a zero target')
    t.equal(sh(`blockdev --getro ${device.path}`), '1\n')
    t.throws(() => sh(`dd if=/dev/zero of=${device.path} bs=512 count=1 conv=fsync`), 'no writing')
    t.strictSame(await device.verify(), { ok: true, problems: [] })
    await device.unmap()

    const empty = `${path}/all-hole`
    sh(`truncate -s 1M ${empty}`)
    await using zeros = await mapFile(empty, { readOnly: true, holes: 'zero' })
    t.equal(await sha256(zeros.path, 1 << 20), await sha256(empty, 1 << 20), 'all of it a hole')
    await zeros.unmap()
  }
  await t.rejects(mapFile(`${ext4.path}/holes`, { holes: 'zero' }), {
    code: 'ERR_INVALID_ARG_VALUE',
  })
})

await t.test('filesystems and devices', async (t) => {
  const code = async (file: string): Promise<unknown> => {
    const { problems } = await planFile(file)
    const error: unknown = await mapFile(file).catch((error: unknown) => error)
    t.equal((error as DmloopError).code, problems[0]?.code, `plan and map agree on ${file}`)
    t.match((error as DmloopError).remedy, /\w{4}/)
    return problems.map((problem) => problem.code)
  }
  sh('head -c 64K /dev/urandom >/tmp/image')
  t.strictSame(await code('/tmp/image'), ['DMLOOP_UNSUPPORTED_FILESYSTEM'], 'tmpfs')
  t.strictSame(
    await code(process.execPath),
    ['DMLOOP_UNSUPPORTED_FILESYSTEM', 'DMLOOP_READ_ONLY'],
    'hostfs, read-only',
  )

  // Straight on a disk (a loop device here: the ram disks have other uses).
  sh(
    'truncate -s 64M /tmp/disk; losetup /dev/loop0 /tmp/disk; mkfs.ext4 -q /dev/loop0; mkdir /tmp/plain; mount /dev/loop0 /tmp/plain',
  )
  randomFile('/tmp/plain/image', 65536)
  t.strictSame(await code('/tmp/plain/image'), ['DMLOOP_DEVICE_CLAIMED'], 'straight on a disk')
  t.match((await planFile('/tmp/plain/image')).problems, [{ message: /loop0/ }], 'it is named')
  sh('umount /tmp/plain')

  // On a layer that does more than translate.
  sh('dmsetup create slow', '0 131072 delay 7:0 0 0')
  sh('mount /dev/mapper/slow /tmp/plain')
  t.strictSame(await code('/tmp/plain/image'), ['DMLOOP_OPAQUE_DEVICE'], 'on dm-delay')
  t.match((await planFile('/tmp/plain/image')).problems, [{ message: /"slow" \(delay\)/ }])
  sh('umount /tmp/plain')

  // A linear layer on top of it can be removed, and the one under it serves.
  sh(
    'dmsetup create top',
    `0 131072 linear ${sh('dmsetup info -c --noheadings -o major,minor slow').trim()} 0`,
  )
  sh('mount /dev/mapper/top /tmp/plain')
  const device = await mapFile('/tmp/plain/image')
  t.match([...(await planFile('/tmp/plain/image')).segments], [{ device: /^254:/ }])
  t.equal(await sha256(device.path, 65536), await sha256('/tmp/plain/image', 65536))
  await device.unmap()
  sh(
    'umount /tmp/plain; dmsetup remove --retry top; dmsetup remove --retry slow; losetup -d /dev/loop0',
  )

  sh('losetup /dev/loop0 /tmp/disk; dmsetup create top --table "0 131072 linear 7:0 0"')
  sh('mount -o data=journal /dev/mapper/top /tmp/plain')
  t.strictSame(await code('/tmp/plain/image'), ['DMLOOP_DATA_JOURNALED'], 'data=journal')
  sh('umount /tmp/plain; tune2fs -o journal_data /dev/mapper/top; mount /dev/mapper/top /tmp/plain')
  t.notMatch(sh('grep /tmp/plain /proc/self/mountinfo'), /data=journal/, 'mountinfo hides it')
  t.strictSame(await code('/tmp/plain/image'), ['DMLOOP_DATA_JOURNALED'], 'as a default')
  sh('umount /tmp/plain; tune2fs -o ^journal_data /dev/mapper/top')

  sh('mount -o ro,noload /dev/mapper/top /tmp/plain')
  t.strictSame(
    await code('/tmp/plain/image'),
    ['DMLOOP_UNSUPPORTED_FILESYSTEM', 'DMLOOP_READ_ONLY'],
    'a journal that was not replayed',
  )
  sh('umount /tmp/plain; mount -o ro /dev/mapper/top /tmp/plain')
  t.strictSame(await code('/tmp/plain/image'), ['DMLOOP_READ_ONLY'], 'mounted read-only')
  await using reader = await mapFile('/tmp/plain/image', { readOnly: true })
  t.equal(await sha256(reader.path, 65536), await sha256('/tmp/plain/image', 65536))
  // It has no guard, for nothing moves there: until it is remounted.
  t.match((await planFile('/tmp/plain/image', { readOnly: true })).files, [{ guard: 'none' }])
  t.strictSame(await reader.verify(), { ok: true, problems: [] })
  sh('mount -o remount,rw /tmp/plain')
  t.match((await planFile('/tmp/plain/image')).files, [{ guard: 'immutable' }])
  t.match(await reader.verify(), {
    ok: false,
    problems: [{ code: 'DMLOOP_UNGUARDABLE', message: /read-only when it was mapped/ }],
  })
  await reader.unmap()
  sh('umount /tmp/plain; dmsetup remove --retry top')
  sh(
    'dmsetup create top --readonly --table "0 131072 linear 7:0 0"; mount -o ro /dev/mapper/top /tmp/plain',
  )
  t.match(await code('/tmp/plain/image'), ['DMLOOP_READ_ONLY'], 'a layer is read-only')
  sh('umount /tmp/plain; dmsetup remove --retry top; losetup -d /dev/loop0')
})

await t.test('a deleted file that is open', async (t) => {
  const path = `${ext4.path}/deleted`
  randomFile(path, 65536)
  const sum = await sha256(path, 65536)
  const open = openSync(path, 'r')
  sh(`rm ${path}`)
  const file = `/proc/${process.pid}/fd/${open}`
  t.match((await planFile(file)).problems, [{ code: 'DMLOOP_UNGUARDABLE', message: /is deleted/ }])
  await t.rejects(mapFile(file), { code: 'DMLOOP_UNGUARDABLE' })
  await t.rejects(mapFile(file, { guard: 'none' }), { code: 'DMLOOP_UNGUARDABLE' })
  const device = await mapFile(file, { backend: 'auto', readOnly: true })
  closeSync(open)
  t.equal(device.backend, 'loop', 'a loop device holds it')
  t.equal(await sha256(device.path, 65536), sum)
  await device.unmap()
  t.strictSame(leftFiles(), [])
})

await t.test('a file that is not there, or not readable', async (t) => {
  const path = `${ext4.path}/nothing`
  await t.rejects(mapFile(path), { code: 'ENOENT', syscall: 'open' })
  await t.rejects(planFile(path), { code: 'ENOENT' })
})

ext4.remove()
xfs.remove()
t.strictSame(deviceNames(), [])
