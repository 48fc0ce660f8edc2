// node btrfs.js [SECONDS [FILES]]: images on btrfs. Their addresses are read through the chunk tree, and nothing that btrfs does
// while one is mapped moves or shares a block of it: SECONDS of each under a load.
import { createHash } from 'node:crypto'
import { closeSync, existsSync, openSync, readSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { createImage, mapFile, planFile, type Extent } from 'dmloop'
import { native, result } from '#lib/kernel/native.js'
import {
  below,
  deviceNames,
  leftFiles,
  makeHost,
  oneSegment,
  randomFile,
  randomNumbers,
  scaled,
  sh,
  sha256,
} from './lab.js'
import { underLoad } from './load.js'
import { roundTrip } from './round-trip.js'

const [seconds = '0.5', files = String(scaled(6, 4))] = process.argv.slice(2)
const MIB = 1 << 20
const GUARD = { guard: 'swapfile' } as const
const OK = { ok: true, problems: [] }
const SECONDS = Number(seconds)
const FILES = Number(files)
const host = makeHost('btrfs', oneSegment(), { mkfs: '-q' })
const DISK = `/dev/mapper/${host.name}`

/** The SHA-256 of the bytes that a plan says the file has, read from the disk. */
function digestOnDisk(extents: Iterable<Extent>): string {
  // Its own page cache knows nothing of what the filesystem writes.
  sh(`blockdev --flushbufs ${DISK}`)
  const disk = openSync(DISK, 'r')
  const hash = createHash('sha256')
  for (const { physical, length } of extents) {
    const bytes = Buffer.alloc(length)
    readSync(disk, bytes, 0, length, physical)
    hash.update(bytes)
  }
  closeSync(disk)
  return hash.digest('hex')
}

/** An image in pieces: what is between them belongs to another file, and may be given back. */
async function imageInPieces(path: string, bytes: number, pieces: number): Promise<void> {
  const piece = Math.ceil(bytes / pieces / 4096) * 4096
  sh(`for f in ${path} ${path}.other; do rm -f $f; touch $f; chattr +C $f; done`)
  sh(`fallocate -l ${MIB} ${path}`)
  for (let start = 0; start < bytes; start += piece) {
    const length = Math.min(piece, bytes - start)
    sh(
      `fallocate -o ${MIB + start} -l ${length} ${path}; fallocate -o ${start} -l 4096 ${path}.other`,
    )
  }
  sh(
    `chmod 600 ${path}; dd if=/dev/urandom of=${path} bs=1M count=${MIB + bytes} iflag=count_bytes conv=notrunc,fsync status=none`,
  )
  const fd = await result(native.open(path, 2), path)
  await result(native.writeSwapHeader(fd), path)
  await result(native.close(fd), path)
  sh(`sync -f ${path}`)
}

function nothingLeft(t: Test): void {
  t.strictSame(deviceNames(), [host.name])
  t.strictSame(leftFiles(), [])
  t.equal(sh('tail -n +2 /proc/swaps'), '')
}

await t.test('addresses are those of the disk', async (t) => {
  const random = randomNumbers(13)
  // Chunks go elsewhere, and so their addresses differ.
  randomFile(`${host.path}/ballast`, 64 * MIB)
  sh(`btrfs balance start --full-balance ${host.path}; rm ${host.path}/ballast; sync`)
  let differs = 0
  for (let index = 0; index < FILES; index++) {
    const file = `${host.path}/image`
    const bytes = index === 0 ? 512 : 512 * Math.ceil(2 ** (4 + random() * 10))
    await imageInPieces(file, bytes, 1 + below(random, 40))
    const plan = await planFile(file, GUARD)
    t.strictSame(plan.problems, [])
    const content = await sha256(file, plan.size, MIB)
    t.equal(digestOnDisk(plan.extents), content, `${plan.extents.length} extents`)
    const whole = await planFile(file, { guard: 'none' })
    const [first] = whole.extents
    const kernel = sh(`btrfs inspect-internal map-swapfile -r ${file}`).trim()
    t.equal(kernel, String((first?.physical ?? NaN) / 4096), 'as btrfs-progs has it')
    const reported = /\n *0: +\d+\.\. *\d+: +(\d+)\.\./.exec(sh(`filefrag -b512 -v ${file}`))?.[1]
    if (Number(reported) * 512 !== first?.physical) differs++
    await roundTrip(t, file, { ...GUARD, verify: 'full' }, random, MIB)
  }
  t.ok(differs > 0, `in ${differs} of ${FILES} files the addresses are not those of FIEMAP`)
  sh(`rm ${host.path}/image*`)
  nothingLeft(t)
})

await t.test('what cannot be mapped, and why', async (t) => {
  const refused = async (path: string, code: string, message: RegExp): Promise<void> => {
    await t.rejects(mapFile(path, GUARD), { code, message }, code)
  }
  const file = `${host.path}/image`
  await createImage(file, { size: 4 * MIB, ...GUARD })
  await t.rejects(mapFile(file), { code: 'DMLOOP_UNGUARDABLE', message: /immutable flag does not/ })
  await t.rejects(mapFile(file, { guard: 'none' }), { code: 'DMLOOP_UNGUARDABLE' })
  sh(`rm -f ${host.path}/plain; head -c 4M /dev/urandom >${host.path}/plain; sync`)
  await refused(`${host.path}/plain`, 'DMLOOP_UNGUARDABLE', /no head/)
  sh(`dd if=${file} of=${host.path}/plain bs=1M status=none; sync`)
  await refused(`${host.path}/plain`, 'DMLOOP_COPY_ON_WRITE', /copy on write/)
  sh(`rm -f ${host.path}/plain`)

  sh(
    `touch ${host.path}/clone; chattr +C ${host.path}/clone; cp --reflink=always ${file} ${host.path}/clone; sync`,
  )
  await refused(file, 'DMLOOP_SHARED_EXTENT', /shares blocks/)
  sh(`rm ${host.path}/clone; btrfs filesystem sync ${host.path}; btrfs subvolume sync ${host.path}`)
  const device = await mapFile(file, GUARD)
  await device.unmap()

  sh(`btrfs subvolume snapshot ${host.path} ${host.path}/snapshot`)
  await refused(file, 'DMLOOP_SHARED_EXTENT', /snapshot/)
  sh(`btrfs subvolume delete -c ${host.path}/snapshot; btrfs subvolume sync ${host.path}; sync`)
  sh(`rm ${file}`)

  for (const [profile, disks] of [
    ['-d dup', '/dev/ram1'],
    ['-d raid1 -m raid1', '/dev/ram1 /dev/loop7'],
    ['-d single', '/dev/ram1 /dev/loop7'],
  ] as const) {
    sh(`truncate -s 200M ${host.path}/second; losetup /dev/loop7 ${host.path}/second`)
    sh(
      `wipefs -aq /dev/ram1; dmsetup create first`,
      `0 ${sh('blockdev --getsz /dev/ram1').trim()} linear /dev/ram1 0\n`,
    )
    sh(`mkfs.btrfs -q -f ${profile} ${disks.replace('/dev/ram1', '/dev/mapper/first')}`)
    sh('mkdir -p /tmp/other; mount /dev/mapper/first /tmp/other')
    await createImage('/tmp/other/image', { size: 4 * MIB, ...GUARD })
    const several = disks.includes(' ')
    await refused(
      '/tmp/other/image',
      several ? 'DMLOOP_UNSUPPORTED_FILESYSTEM' : 'DMLOOP_REPLICATED_EXTENT',
      several ? /several devices/ : /several copies/,
    )
    sh(`umount /tmp/other; dmsetup remove first; losetup -d /dev/loop7; rm ${host.path}/second`)
  }
  nothingLeft(t)
})

await t.test('an image of a process that has just started is written, too', async (t) => {
  const command = fileURLToPath(new URL('../../../dist/cli/dmloop.js', import.meta.url))
  const file = `${host.path}/image`
  randomFile('/tmp/content', 3 * MIB)
  for (let round = 0; round < 6; round++) {
    const content = round % 2 === 0 ? '--size=4M' : '--from=/tmp/content'
    sh(`"${process.execPath}" "${command}" create --overwrite --guard=swapfile ${content} ${file}`)
    t.strictSame((await planFile(file, GUARD)).problems, [])
    t.notMatch(sh(`filefrag -v ${file}`), /unwritten/)
  }
  sh(`rm ${file}`)
})

await t.test('not while chunks are moved', async (t) => {
  const file = `${host.path}/image`
  await createImage(file, { size: 4 * MIB, ...GUARD })
  randomFile(`${host.path}/ballast`, 128 * MIB)
  // It may be done before it can be stopped.
  sh(`sync; for attempt in $(seq 20); do
      btrfs balance start --full-balance --bg ${host.path}
      btrfs balance pause ${host.path} && break
    done; btrfs balance status ${host.path} | grep paused`)
  await t.rejects(mapFile(file, GUARD), {
    code: 'DMLOOP_UNGUARDABLE',
    message: /while its btrfs is balanced .* \(btrfs balance cancel\)/,
  })
  sh(`btrfs balance cancel ${host.path}`)
  await (await mapFile(file, GUARD)).unmap()
  sh(`rm ${file} ${host.path}/ballast; sync`)
  nothingLeft(t)
})

await t.test('subvolumes', async (t) => {
  sh(`btrfs subvolume create ${host.path}/sub; mkdir -p /tmp/sub`)
  const file = `${host.path}/sub/image`
  await createImage(file, { size: 4 * MIB, ...GUARD })
  const device = await mapFile(file, GUARD)
  t.throws(() => sh(`btrfs subvolume snapshot ${host.path}/sub ${host.path}/taken`))
  // Of the one around it a snapshot has no block of the file's.
  sh(`btrfs subvolume snapshot ${host.path} ${host.path}/around`)
  t.strictSame(await device.verify({ content: 'full' }), OK)
  // The kernel has the file open through the mount that it was mapped by.
  t.throws(() => sh(`umount ${host.path}`), /busy/)
  sh(`mount -o subvol=sub ${DISK} /tmp/sub; umount -l ${host.path}; rm -rf /run/dmloop`)
  t.strictSame(await device.verify({ content: 'full' }), OK, 'through another mount')
  await device.unmap()
  sh(`mount ${DISK} ${host.path}; umount /tmp/sub`)
  sh(`btrfs subvolume snapshot ${host.path}/sub ${host.path}/taken`)
  await t.rejects(mapFile(`${host.path}/taken/image`, GUARD), { code: 'DMLOOP_SHARED_EXTENT' })
  sh(`btrfs subvolume delete -c ${host.path}/taken ${host.path}/around ${host.path}/sub`)
  nothingLeft(t)
})

/** What btrfs and its users may do meanwhile; each may fail, or leave the image where it is. */
const OPERATIONS: Record<string, string> = {
  'balance, full': `btrfs balance start --full-balance ${host.path}`,
  'balance -dusage': `btrfs balance start -dusage=100 ${host.path}`,
  'balance -musage': `btrfs balance start -musage=100 ${host.path}`,
  scrub: `btrfs scrub start -B ${host.path}`,
  defragment: `btrfs filesystem defragment -r -f ${host.path}`,
  'defragment, compressing': `btrfs filesystem defragment -czstd ${host.path}/image`,
  snapshot: `btrfs subvolume snapshot ${host.path} ${host.path}/snapshot`,
  'reflink from': `cp --reflink=always ${host.path}/image ${host.path}/clone`,
  'reflink to': `cp --reflink=always ${host.path}/donor ${host.path}/image`,
  dedupe: `xfs_io -c 'dedupe ${host.path}/donor 0 1M 64K' ${host.path}/image`,
  'dedupe from': `xfs_io -c 'dedupe ${host.path}/image 1M 0 64K' ${host.path}/donor`,
  replace: `btrfs replace start -f -B 1 /dev/ram1 ${host.path}`,
  'device add': `btrfs device add -f /dev/ram1 ${host.path}`,
  'device remove': `btrfs device remove ${DISK} ${host.path}`,
  'device remove, the other': `btrfs device remove /dev/ram1 ${host.path}`,
  'resize, smaller': `btrfs filesystem resize 128M ${host.path}`,
  'resize, back': `btrfs filesystem resize max ${host.path}`,
  send: `btrfs send ${host.path} >/dev/null`,
  'no swap': 'swapoff -a',
}

/** Those that must fail, if anything is to be left of the image where it was. */
const REFUSED = new Set([
  'snapshot',
  'reflink from',
  'reflink to',
  'dedupe',
  'replace',
  'device remove',
  'defragment, compressing',
  'no swap',
])

await t.test('what is equal is not made one', async (t) => {
  const file = `${host.path}/image`
  const twin = `${host.path}/twin`
  await createImage(file, { size: 4 * MIB, ...GUARD })
  sh(`touch ${twin}; chattr +C ${twin}; dd if=${file} of=${twin} bs=1M status=none; sync`)
  const device = await mapFile(file, GUARD)
  for (const [from, to] of [
    [file, twin],
    [twin, file],
  ] as const) {
    const said = sh(`xfs_io -c 'dedupe ${from} 1M 1M 1M' ${to} 2>&1 || true`)
    t.match(said, /busy|not permitted/, `${from} ${to}`)
    t.notMatch(sh(`filefrag -v ${file}`), /shared/)
  }
  t.strictSame(await device.verify({ content: 'full' }), OK)
  await device.unmap()
  sh(`rm ${file} ${twin}`)
  nothingLeft(t)
})

await t.test('nothing moves it while it is written', async (t) => {
  const file = `${host.path}/image`
  randomFile(`${host.path}/donor`, 4 * MIB)
  randomFile('/tmp/content', 16 * MIB)
  await createImage(file, { from: '/tmp/content', ...GUARD })
  const device = await mapFile(file, GUARD)
  const before = sh(`dmsetup table ${device.name}`)
  for (const [what, command] of Object.entries(OPERATIONS)) {
    const done = await underLoad(t, device, { what, command, seconds: SECONDS })
    if (REFUSED.has(what)) t.equal(done, 0, what)
    const { ok, problems } = await device.verify({ content: 'full' })
    const known = what === 'device add' || what === 'device remove'
    t.equal(ok || known, true, `${what}: ${JSON.stringify(problems)}`)
  }
  const written = await sha256(device.path, 16 * MIB)
  t.equal(sh(`dmsetup table ${device.name}`), before)
  await device.unmap()
  t.equal(await sha256(file, 16 * MIB, MIB), written)
  const scrubbed = sh(`btrfs scrub start -B ${host.path}`)
  t.match(scrubbed, /no errors found/)
  sh(`btrfs balance start --full-balance ${host.path}`)
  const again = await mapFile(file, { ...GUARD, verify: 'full' })
  t.equal(await sha256(again.path, 16 * MIB), written, 'moved afterwards, and mapped again')
  await again.unmap()
  t.notOk(existsSync(`${host.path}/snapshot`))
  nothingLeft(t)
})

host.remove()
