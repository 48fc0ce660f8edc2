// node swap-guard.js FILESYSTEM [SECONDS]: the guard by swap file. What it stops, SECONDS of each under a load, that
// nothing is swapped there, how it is found to be gone, and that the file comes back as it was.
import { openSync, closeSync, readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import {
  createImage,
  mapFile,
  openMapping,
  planFile,
  releaseFile,
  type DmloopError,
  type MappedDevice,
} from 'dmloop'
import { native, result } from '#lib/kernel/native.js'
import {
  deviceNames,
  fileState,
  leftFiles,
  makeHost,
  oneSegment,
  quoted,
  randomFile,
  sh,
  sha256,
} from './lab.js'
import { COMMAND } from './command-line.js'
import { underLoad } from './load.js'

const [filesystem = 'ext4', seconds = '0.2'] = process.argv.slice(2)
const MKFS: Record<string, string> = { xfs: '-m reflink=1', f2fs: '-q', btrfs: '-q' }
const host = makeHost(filesystem, oneSegment(), { mkfs: MKFS[filesystem] ?? '' })
const file = `${host.path}/image`
const content = '/tmp/content'
const MIB = 1 << 20
const HEAD = MIB
const hasFlag = filesystem !== 'vfat'
const GUARD = { guard: 'swapfile' } as const

/** The lines of /proc/swaps: path, type, size, used, priority. */
const swaps = (): string[][] =>
  readFileSync('/proc/swaps', 'utf8')
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.split(/\s+/))

const isFull = ([, , size, used]: string[]): boolean => size === used

/** The command, for a shell. */
const dmloop = quoted(process.execPath, COMMAND)

const segments = (): string => sh('cat /proc/sysvipc/shm | tail -n +2')

/** What nobody leaves behind. */
function assertNothingLeft(t: Test, before: string): void {
  t.strictSame(swaps(), [], 'no swap space')
  t.equal(segments(), '', 'no shared memory')
  t.equal(fileState(file), before, 'bytes, flags, owner, mode and mtime are those of before')
  t.strictSame(leftFiles(), [])
  t.strictSame(deviceNames(), [host.name])
}

/** The bytes and the mtime that the image has between the tests. */
const restoreContent = (): string =>
  sh(`dd if=${content} of=${file} bs=1M seek=1 conv=notrunc status=none; touch -d @0 ${file}`)

async function assertNoSwap(t: Test, device: MappedDevice): Promise<void> {
  const { problems } = await device.verify()
  t.ok(
    problems.some(({ message }) => message.includes('taken out of use as swap space')),
    JSON.stringify(problems),
  )
}

await t.test('an image is made, mapped, written and released', async (t) => {
  randomFile(content, 8 * MIB)
  t.strictSame(await createImage(file, { from: content, ...GUARD }), [file])
  t.equal(Number(sh(`stat -c %s ${file}`)), HEAD + 8 * MIB)
  const before = fileState(file)

  const plan = await planFile(file, GUARD)
  t.strictSame(plan.problems, [])
  t.equal(plan.size, 8 * MIB)
  t.strictSame(swaps(), [], 'a plan changes nothing')

  const device = await mapFile(file, { ...GUARD, verify: 'full' })
  t.equal(device.size, 8 * MIB)
  t.equal(await sha256(device.path, 8 * MIB), await sha256(content, 8 * MIB))
  const [area = []] = swaps()
  t.equal(swaps().length, 1)
  t.equal(area[0], file)
  t.ok(isFull(area), 'the kernel has no room for anybody there')
  if (hasFlag) t.match(sh(`lsattr ${file}`), /^-+i/)
  sh(
    `dd if=/dev/urandom of=${device.path} bs=64K count=4 seek=3 oflag=direct conv=notrunc status=none`,
  )
  t.strictSame(await device.verify({ content: 'full' }), { ok: true, problems: [] })
  const written = await sha256(device.path, 8 * MIB)
  await device.unmap()
  t.equal(await sha256(file, 8 * MIB, HEAD), written)
  restoreContent()
  t.not(fileState(file), before)
  t.strictSame(swaps(), [])
})

const ATTEMPTS: Record<string, string> = {
  write: `echo x >>${file}`,
  overwrite: `dd if=/dev/zero of=${file} bs=4K count=1 conv=notrunc status=none`,
  truncate: `truncate -s 4K ${file}`,
  punch: `fallocate -p -o 1M -l 64K ${file}`,
  unlink: `rm -f ${file}`,
  rename: `mv ${file} ${file}.moved`,
  'mmap for writing': `xfs_io -c 'mmap -rw 0 4k' -c 'mwrite 0 4k' ${file}`,
  swapoff: hasFlag ? `swapoff ${file}` : 'false',
  'swapoff -a': hasFlag ? 'swapoff -a' : 'false',
}

await t.test('nobody can write to, move, delete or share it', async (t) => {
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  const attempts = { ...ATTEMPTS }
  if (filesystem === 'xfs') {
    // Not while the flag is there alone: an owner may clone an immutable file.
    attempts.clone = `cp --reflink=always ${file} ${file}.clone`
    attempts.swap = `xfs_io -c 'swapext ${host.path}/donor' ${file}`
    randomFile(`${host.path}/donor`, 9 * MIB)
  }
  for (const [what, command] of Object.entries(attempts)) t.throws(() => sh(command), what)
  t.strictSame(await device.verify({ content: 'full' }), { ok: true, problems: [] })
  await device.unmap()
  assertNothingLeft(t, before)
})

await t.test('without its flag and its mode, the kernel itself still refuses', async (t) => {
  if (!hasFlag) return
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  sh(`chattr -i ${file}; chmod 666 ${file}`)
  for (const [what, command] of Object.entries(ATTEMPTS)) {
    if (!what.startsWith('swapoff')) t.throws(() => sh(command), what)
  }
  const { problems } = await device.verify()
  t.match(problems, [{ code: 'DMLOOP_UNGUARDABLE', message: /flag was cleared/ }])
  await device.unmap()
  assertNothingLeft(t, before)
})

await t.test('a writer who comes before it is swap space is found', async (t) => {
  const before = fileState(file)
  const { swapOn, dmCreate } = native
  let writer: number | undefined
  native.swapOn = (...args) => {
    writer ??= openSync(file, 'r+')
    return swapOn(...args)
  }
  // Before the last check: who has written and gone must have been seen earlier.
  native.dmCreate = (...args) => {
    closeWriter()
    return dmCreate(...args)
  }
  const closeWriter = (): void => {
    if (writer !== undefined) closeSync(writer)
    writer = undefined
  }
  try {
    await t.rejects(mapFile(file, GUARD), {
      code: 'DMLOOP_FILE_IN_USE',
      message: new RegExp(`process ${process.pid} `),
    })
  } finally {
    Object.assign(native, { swapOn, dmCreate })
    closeWriter()
  }
  assertNothingLeft(t, before)
})

await t.test('an end of the swap space is found, and undone', async (t) => {
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  if (hasFlag) sh(`chattr -i ${file}`)
  sh('swapoff -a')
  await assertNoSwap(t, device)
  await device.unmap()
  assertNothingLeft(t, before)
})

await t.test('verify names who could write since that end', async (t) => {
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  if (hasFlag) sh(`chattr -i ${file}`)
  sh('swapoff -a')
  const writer = openSync(file, 'r+')
  const { problems } = await device.verify()
  closeSync(writer)
  const found = problems.find(({ code }) => code === 'DMLOOP_FILE_IN_USE')
  t.match(found?.message, new RegExp(`process ${process.pid} `), JSON.stringify(problems))
  await device.unmap()
  assertNothingLeft(t, before)
})

await t.test('an end of what fills it is found', async (t) => {
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  sh('ipcrm --all=shm')
  t.match((await device.verify()).problems, [
    { code: 'DMLOOP_UNGUARDABLE', message: /no longer full/ },
  ])
  await device.unmap()
  assertNothingLeft(t, before)
})

await t.test('a copy, with its header, neither fills nor empties it', async (t) => {
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  const copy = `${host.path}/copy`
  if (filesystem === 'btrfs') sh(`touch ${copy}; chattr +C ${copy}`)
  sh(`dd if=${file} of=${copy} bs=1M status=none; sync`)
  await releaseFile(copy)
  t.ok(swaps().every(isFull))
  const second = await mapFile(copy, GUARD)
  t.equal(swaps().length, 2)
  t.ok(swaps().every(isFull))
  await second.unmap()
  t.ok(swaps().every(isFull))
  t.strictSame(await device.verify({ content: 'full' }), { ok: true, problems: [] })
  sh(`rm ${copy}`)
  await device.unmap()
  assertNothingLeft(t, before)
})

await t.test('several at once', async (t) => {
  const before = fileState(file)
  const images = [1, 2, 3].map((index) => `${host.path}/image${index}`)
  for (const image of images) await createImage(image, { size: 2 * MIB, ...GUARD })
  const devices = await Promise.all(images.map((image) => mapFile(image, GUARD)))
  t.equal(swaps().length, images.length)
  t.ok(swaps().every(isFull))
  for (const device of devices) await device.unmap()

  // With a /run of their own, they do not share a lock.
  const apart = `unshare -m sh -ec 'mount -t tmpfs none /run; exec "$@"' sh`
  const map = `${apart} ${dmloop} map --guard=swapfile`
  sh(`for image in ${images.join(' ')}; do ${map} $image & done; wait`)
  t.equal(swaps().length, images.length)
  t.ok(swaps().every(isFull))
  for (const image of images) await (await openMapping(image)).unmap()
  sh(`rm ${images.join(' ')}`)
  assertNothingLeft(t, before)
})

await t.test('not beside another empty space that the kernel may fill instead', async (t) => {
  if (filesystem !== 'ext4') return // It is the same for all.
  const before = fileState(file)
  const other = `${host.path}/other`
  sh(`head -c 64K /dev/urandom >${other}; chmod 600 ${other}; mkswap -q ${other}
    swapon -p 32767 ${other}`)
  await t.rejects(mapFile(file, GUARD), { code: 'DMLOOP_UNGUARDABLE', message: /highest priority/ })
  t.equal(swaps().length, 1)
  t.equal(swaps()[0]?.[3], '0', 'nothing was written there')
  sh(`swapoff ${other}; rm ${other}`)
  assertNothingLeft(t, before)
})

await t.test('what fills it must stay', async (t) => {
  const before = fileState(file)
  t.match(sh(`unshare -i ${dmloop} map --guard=swapfile ${file} 2>&1 || true`), /IPC namespace/)
  sh('echo 1 >/proc/sys/kernel/shm_rmid_forced')
  await t.rejects(mapFile(file, GUARD), { code: 'DMLOOP_UNGUARDABLE', message: /shm_rmid_forced/ })
  sh('echo 0 >/proc/sys/kernel/shm_rmid_forced')
  assertNothingLeft(t, before)
})

/** What may be done to the whole filesystem, or to the file without writing to it. */
const UPKEEP: Record<string, Record<string, string>> = {
  ext4: { defragment: `e4defrag ${file}`, grow: `resize2fs /dev/mapper/${host.name}` },
  xfs: {
    defragment: `xfs_fsr -v ${file}`,
    grow: `xfs_growfs -d ${host.path}`,
    dedupe: `xfs_io -c 'dedupe ${host.path}/donor 0 1M 64K' ${file}`,
    'dedupe from': `xfs_io -c 'dedupe ${file} 1M 0 64K' ${host.path}/donor`,
  },
  f2fs: {
    defragment: `f2fs_io defrag_file 0 ${8 * MIB} ${file}`,
    clean: 'for f in /sys/fs/f2fs/*/gc_urgent; do echo 1 >$f; done',
  },
}

await t.test('nothing moves it while it is written', async (t) => {
  if (filesystem === 'btrfs') return // It has more that could, in a test of its own.
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  const table = sh(`dmsetup table ${device.name}`)
  const operations = { ...ATTEMPTS, ...UPKEEP[filesystem], trim: `fstrim ${host.path}` }
  for (const [what, command] of Object.entries(operations)) {
    const done = await underLoad(t, device, { what, command, seconds: Number(seconds) })
    if (what in ATTEMPTS) t.equal(done, 0, what)
    t.strictSame(await device.verify({ content: 'full' }), { ok: true, problems: [] }, what)
  }

  if (hasFlag) sh(`chattr -i ${file}`)
  const command = 'swapoff -a'
  await underLoad(t, device, { what: 'no swap space', command, seconds: Number(seconds) })
  await assertNoSwap(t, device)
  t.equal(sh(`dmsetup table ${device.name}`), table)
  const written = await sha256(device.path, 8 * MIB)
  await device.unmap()
  t.equal(await sha256(file, 8 * MIB, HEAD), written, 'nothing is lost')
  restoreContent()
  assertNothingLeft(t, before)
})

await t.test('f2fs: a pin that root takes away is found', async (t) => {
  if (filesystem !== 'f2fs') return
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  t.strictSame(await device.verify(), { ok: true, problems: [] })
  const fd = await result(native.open(file, 0), file)
  await result(native.setPinned(fd, false), file)
  await result(native.close(fd), file)
  t.match((await device.verify()).problems, [{ code: 'DMLOOP_NOT_PINNED' }])
  await device.unmap()
  assertNothingLeft(t, before)
})

await t.test('another process, and another /run, release it', async (t) => {
  const before = fileState(file)
  await mapFile(file, GUARD)
  sh('rm -rf /run/dmloop')
  const found = await openMapping(file)
  t.strictSame(await found.verify(), { ok: true, problems: [] })
  await found.unmap()
  assertNothingLeft(t, before)
})

await t.test('another mount namespace, where its path leads elsewhere, releases it', async (t) => {
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  sh(`rm -rf /run/dmloop; mkdir /tmp/elsewhere
    unshare -m sh -ec 'mount --bind ${host.path} /tmp/elsewhere; umount -l ${host.path}
      "$@" verify ${device.name}; "$@" unmap ${device.name}' sh ${dmloop}; rmdir /tmp/elsewhere`)
  assertNothingLeft(t, before)
})

await t.test('what a crash has left, the next call removes', async (t) => {
  const before = fileState(file)
  const device = await mapFile(file, GUARD)
  sh(`dmsetup remove --retry ${device.name}; rm -rf /run/dmloop`)
  await releaseFile(file)
  assertNothingLeft(t, before)
  const again = await mapFile(file, GUARD)
  sh(`dmsetup remove --retry ${again.name}; rm -rf /run/dmloop`)
  const last = await mapFile(file, GUARD)
  await last.unmap()
  assertNothingLeft(t, before)
})

await t.test('what cannot be guarded is refused, and stays as it was', async (t) => {
  const before = fileState(file)
  const mode = sh(`stat -c %a ${file}`).trim()
  const refusal = async (path: string): Promise<DmloopError> =>
    (await mapFile(path, GUARD).catch((error: unknown) => error)) as DmloopError
  const plain = `${host.path}/plain`
  randomFile(plain, 4 * MIB)
  const error = await refusal(plain)
  t.equal(error.code, 'DMLOOP_UNGUARDABLE')
  t.match(error.message, /has no head that could be swap space/)
  t.match((await planFile(plain, GUARD)).problems, [{ code: 'DMLOOP_UNGUARDABLE' }])

  // A header that would have memory written to the image.
  const forged = `${host.path}/forged`
  await createImage(forged, { size: 4 * MIB, ...GUARD })
  sh(
    `printf '\\000\\004' | dd of=${forged} bs=1 seek=1028 conv=notrunc status=none; sync ${forged}`,
  )
  t.match((await refusal(forged)).message, /has no head/)
  const { readSwapHeader } = native
  native.readSwapHeader = () => Promise.resolve({ value: 'f'.repeat(32) })
  try {
    t.match((await refusal(forged)).message, /has no head/, 'changed since it was read')
  } finally {
    Object.assign(native, { readSwapHeader })
  }
  t.equal(swaps().length, 0)
  sh(`rm ${forged}`)

  const own = `${host.path}/own`
  if (filesystem === 'btrfs') sh(`touch ${own}; chattr +C ${own}`)
  sh(`head -c 4M /dev/urandom >${own}; chmod 600 ${own}; mkswap -q ${own} && swapon ${own}`)
  const used = await refusal(own)
  t.match(used.code, /DMLOOP_UNGUARDABLE/)
  t.equal(swaps().length, 1, 'a user’s own swap space stays')
  sh(`swapoff ${own}; rm ${own}`)

  const writer = openSync(file, 'r+')
  t.equal((await refusal(file)).code, 'DMLOOP_FILE_IN_USE')
  closeSync(writer)
  if (hasFlag) {
    sh(`chattr +i ${file}`)
    t.match(await refusal(file), { code: 'DMLOOP_UNGUARDABLE', message: /immutable already/ })
    sh(`chattr -i ${file}; chmod 600 ${file}; chattr +i ${file}`)
    const { problems } = await planFile(file, GUARD)
    t.match(problems, [{ code: 'DMLOOP_UNGUARDABLE', message: /immutable already/ }])
    sh(`chattr -i ${file}; chmod ${mode} ${file}`)
  }
  // Linux 6.1 has no direct I/O on it, by which the header is read.
  const onTmpfs = await planFile(content, GUARD)
  t.match(onTmpfs.problems.at(-1), { code: 'DMLOOP_UNSUPPORTED_FILESYSTEM' })
  assertNothingLeft(t, before)
  sh(`rm ${plain}`)
})

await t.test('on a read-only vfat it is a file like others', async (t) => {
  if (filesystem !== 'vfat') return // On others it has a mark.
  const before = fileState(file)
  sh(`mount -o remount,ro ${host.path}`)
  const device = await mapFile(file, { readOnly: true, guard: 'none' })
  t.equal(device.size, HEAD + 8 * MIB)
  await device.unmap()
  sh(`mount -o remount,rw ${host.path}`)
  assertNothingLeft(t, before)
})

await t.test('the kernel’s limit of areas', async (t) => {
  if (filesystem !== 'ext4') return // It is the same for all.
  const before = fileState(file)
  const others: string[] = []
  for (let index = 0; ; index++) {
    const other = `${host.path}/swap${index}`
    sh(`head -c 64K /dev/urandom >${other}; chmod 600 ${other}; mkswap -q ${other}`)
    others.push(other)
    try {
      sh(`swapon ${other}`)
    } catch {
      break
    }
  }
  t.ok(others.length > 20, `${others.length - 1} areas`)
  await t.rejects(mapFile(file, GUARD), {
    code: 'DMLOOP_UNGUARDABLE',
    message: new RegExp(`the kernel has ${others.length - 1} areas, and no more`),
  })
  sh(`swapoff -a; rm ${others.join(' ')}`)
  assertNothingLeft(t, before)
})

await t.test('a loop device leaves the head out as well', async (t) => {
  const before = fileState(file)
  const device = await mapFile(file, { ...GUARD, backend: 'loop' })
  t.equal(device.size, 8 * MIB)
  t.equal(await sha256(device.path, 8 * MIB), await sha256(content, 8 * MIB))
  t.strictSame(await device.verify({ content: 'full' }), { ok: true, problems: [] })
  await device.unmap()
  assertNothingLeft(t, before)
})

await t.test('several files', async (t) => {
  const split = `${host.path}/split`
  const files = await createImage(split, { from: content, maxFileSize: 4 * MIB, ...GUARD })
  t.equal(files.length, 3)
  const device = await mapFile(files, { ...GUARD, verify: 'full' })
  t.equal(await sha256(device.path, 8 * MIB), await sha256(content, 8 * MIB))
  t.equal(swaps().length, 3)
  t.ok(swaps().every(isFull))
  t.strictSame(await device.verify({ content: 'full' }), { ok: true, problems: [] })
  await device.unmap()
  t.strictSame(swaps(), [])
  t.equal(segments(), '')
  sh(`rm ${files.join(' ')}`)
})

host.remove()
