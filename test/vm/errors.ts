// Numbers that do not fit, other block sizes, and plans that foretell.
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'
import { crc32 } from 'node:zlib'
import t from 'tap'
import {
  DmloopError,
  MappedDevice,
  mapFile,
  openMapping,
  planFile,
  releaseFile,
  wrapDevice,
  type PlanOptions,
} from 'dmloop'
import { deviceNames, fileState, leftFiles, makeHost, oneSegment, randomFile, sh } from './lab.js'

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

/** A GPT of 512-byte sectors with one partition (UEFI specification, 5.3), and the rest of the disk. */
function gptImage(bytes: number, start: number, sectors: number): Buffer {
  const disk = randomBytes(bytes)
  const last = bytes / 512 - 1
  const entries = Buffer.alloc(128 * 128)
  Buffer.from('af3dc60f838472478e793d69d8477de4', 'hex').copy(entries)
  entries.fill(0x11, 16, 32)
  entries.writeBigUInt64LE(BigInt(start), 32)
  entries.writeBigUInt64LE(BigInt(start + sectors - 1), 40)
  const header = (at: number, other: number, table: number): Buffer => {
    const sector = Buffer.alloc(512)
    sector.write('EFI PART')
    sector.writeUInt32LE(0x10000, 8)
    sector.writeUInt32LE(92, 12)
    const places = [at, other, 34, last - 33]
    for (const [index, lba] of places.entries())
      sector.writeBigUInt64LE(BigInt(lba), 24 + 8 * index)
    sector.fill(0x22, 56, 72)
    sector.writeBigUInt64LE(BigInt(table), 72)
    sector.writeUInt32LE(128, 80)
    sector.writeUInt32LE(128, 84)
    sector.writeUInt32LE(crc32(entries), 88)
    sector.writeUInt32LE(crc32(sector.subarray(0, 92)), 16)
    return sector
  }
  const protective = Buffer.alloc(512)
  protective.writeUInt8(0xee, 450)
  protective.writeUInt32LE(1, 454)
  protective.writeUInt32LE(last, 458)
  protective.writeUInt16LE(0xaa55, 510)
  Buffer.concat([protective, header(1, last, 2), entries]).copy(disk)
  Buffer.concat([entries, header(last, 1, last - 32)]).copy(disk, (last - 32) * 512)
  return disk
}

await t.test('an image of 512-byte sectors on a disk of 4096', async (t) => {
  sh('truncate -s 64M /tmp/disk; losetup -b 4096 /dev/loop3 /tmp/disk; mkfs.ext4 -q /dev/loop3')
  sh('mkdir /tmp/4kn; mount /dev/loop3 /tmp/4kn')
  const file = '/tmp/4kn/image'
  writeFileSync(file, gptImage((1 << 20) + 512, 40, 1000))
  const sectorSize = (path: string): string => sh(`blockdev --getss ${path}`).trim()
  const partitions = (path: string): string =>
    sh(`partx -g -r -o START,SECTORS ${path} 2>/dev/null || true`).trim()

  t.match(await planFile(file, { backend: 'loop' }), { size: 1 << 20, tailBytes: 512 })
  const plain = await mapFile(file, { backend: 'loop' })
  t.match(plain, { size: 1 << 20, directIo: true })
  t.equal(sectorSize(plain.path), '4096', 'by default, the disk’s blocks')
  t.equal(partitions(plain.path), '', 'in which the table is not to be found')
  await plain.unmap()

  for (const backend of ['loop', 'auto'] as const) {
    const options = { backend, blockSize: 512, verify: 'full' } as const
    const planned = { backend: options.backend, blockSize: 512 }
    const size = (1 << 20) + 512
    t.match(await planFile(file, planned), { backend: 'loop', size, tailBytes: 0, problems: [] })
    const device = await mapFile(file, { ...options, partitions: true })
    t.match(device, { backend: 'loop', size, directIo: false }, backend)
    t.equal(sectorSize(device.path), '512')
    t.equal(partitions(device.path), '40 1000')
    t.equal(sh(`cat /sys/class/block/${basename(device.path)}p1/size`).trim(), '1000')
    t.strictSame(await (await openMapping(file)).verify({ content: 'full' }), OK)
    sh(`head -c 1536 /dev/urandom | dd of=${device.path} bs=512 seek=2046 conv=fsync status=none`)
    t.strictSame(await device.verify({ content: 'full' }), OK)
    const written = readFileSync(device.path)
    sh(`head -c 512 /dev/urandom >>${file}`)
    await device.extend()
    t.equal(device.size, size + 512, 'grown by one small block')
    await device.unmap()
    t.ok(readFileSync(file).subarray(0, size).equals(written))
    sh(`truncate -s ${size} ${file}`)
  }
  const part = { backend: 'loop', blockSize: 512, offset: 512, length: 1536 } as const
  const device = await mapFile(file, part)
  t.equal(device.size, 1536)
  t.strictSame(await device.verify({ content: 'full' }), OK)
  await device.unmap()
  await t.rejects(mapFile(file, { ...part, blockSize: 1024 }), { code: 'DMLOOP_UNALIGNED' })
  const larger = await mapFile(file, { backend: 'loop', blockSize: 2048, length: 4096 })
  t.equal(sectorSize(larger.path), '2048')
  await larger.unmap()
  sh('umount /tmp/4kn; losetup -d /dev/loop3; rm /tmp/disk')
})

await t.test('a plan says what mapFile would', async (t) => {
  const ext4 = makeHost('ext4', oneSegment(0))
  const [file, other] = [`${ext4.path}/image`, `${xfs.path}/other`]
  randomFile(file, 65536)
  randomFile(other, 65536)
  sh(`mkdir /tmp/bind; mount --bind ${ext4.path} /tmp/bind; mount -o remount,bind,ro /tmp/bind`)
  const bound = '/tmp/bind/image'
  const state = fileState(file)

  /** The codes of the plan's problems, which must be those that mapFile gives. */
  async function verdicts(files: string | string[], options: PlanOptions = {}): Promise<string[]> {
    const plan = await planFile(files, options)
    const what = `${String(files)} ${JSON.stringify(options)}`
    const outcome = await mapFile(files, options).catch((error: unknown) => error)
    if (outcome instanceof MappedDevice) {
      t.strictSame(plan.problems, [], what)
      t.match(outcome, { backend: plan.backend, size: plan.size, fallback: plan.fallback }, what)
      await outcome.unmap()
    } else {
      t.match(outcome, { name: 'DmloopError' }, what)
      t.strictSame((outcome as DmloopError).problems, plan.problems, what)
    }
    return plan.problems.map(({ code }) => code)
  }

  t.strictSame(await verdicts(bound), ['DMLOOP_READ_ONLY'])
  t.strictSame(await verdicts(bound, { readOnly: true }), ['DMLOOP_UNGUARDABLE'])
  const [unguardable] = (await planFile(bound, { readOnly: true })).problems
  t.match(unguardable, { file: bound, remedy: /through a writable mount/ })
  t.strictSame(await verdicts(bound, { readOnly: true, guard: 'none' }), [])
  t.strictSame(await verdicts(bound, { backend: 'loop' }), ['DMLOOP_READ_ONLY'])
  t.strictSame(await verdicts(bound, { backend: 'auto' }), ['DMLOOP_READ_ONLY'])
  t.strictSame(await verdicts(bound, { backend: 'loop', readOnly: true }), [])
  t.strictSame(await verdicts(bound, { backend: 'auto', readOnly: true }), [], 'not linear')
  t.strictSame(await verdicts([other, bound], { readOnly: true }), ['DMLOOP_UNGUARDABLE'])
  sh(`chattr +i ${file}`)
  t.strictSame(await verdicts(bound, { readOnly: true }), [], 'it is held already')
  sh(`chattr -i ${file}`)

  const crashed = await mapFile(file)
  sh(`dmsetup remove --retry ${crashed.name}; rm -rf /run/dmloop/*`)
  const marked = await mapFile(bound, { readOnly: true }).catch((error: unknown) => error)
  t.match(marked, { code: 'DMLOOP_UNGUARDABLE', file: bound }, 'a guard from before a crash')
  await releaseFile(file)
  t.equal(fileState(file), state)

  for (const flag of ['i', 'a']) {
    sh(`chattr +${flag} ${file}`)
    const codes = ['DMLOOP_READ_ONLY']
    t.strictSame(await verdicts(file, { backend: 'loop' }), codes, `chattr +${flag}`)
    t.strictSame(await verdicts([other, file], { backend: 'loop' }), codes)
    t.strictSame(await verdicts(file, { backend: 'loop', readOnly: true }), [])
    sh(`chattr -${flag} ${file}`)
  }

  // What is not in the range asked for is judged as well: it would be held too.
  randomFile('/tmp/plain', 65536)
  t.strictSame(await verdicts([file, '/tmp/plain'], { length: 65536 }), [
    'DMLOOP_UNSUPPORTED_FILESYSTEM',
  ])
  t.strictSame(await verdicts([file, other, '/tmp/plain'], { backend: 'auto' }), [])

  sh('cp -a /dev/mapper/control /tmp/control; rm /dev/mapper/control')
  for (const backend of ['linear', 'loop', 'auto'] as const) {
    const plan = await planFile([file, other], { backend })
    const codes = [...new Set(plan.problems.map(({ code }) => code))]
    t.strictSame(codes, ['DMLOOP_NO_DEVICE_MAPPER'], backend)
    await t.rejects(mapFile([file, other], { backend }), { code: 'DMLOOP_NO_DEVICE_MAPPER' })
  }
  t.strictSame((await planFile(file, { backend: 'loop' })).problems, [])
  sh('cp -a /tmp/control /dev/mapper/control')
  t.strictSame(leftFiles(), [])
  sh('umount /tmp/bind')
  ext4.remove()
})

xfs.remove()
t.strictSame(deviceNames(), [])
