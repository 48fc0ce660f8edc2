// node store.js FILESYSTEM: an ImageStore. Its images survive a reboot, are mapped before their filesystem is mounted,
// and only while what is recorded of them is so.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  readdirSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import {
  createImage,
  ImageStore,
  listMappings,
  mapFile,
  openMapping,
  releaseFile,
  type Progress,
} from 'dmloop'
import { deviceNames, leftFiles, randomFile, scaled, sh, sha256 } from './lab.js'
import { HOST, METADATA, mount, reboot } from './store-host.js'

const [filesystem = 'ext4'] = process.argv.slice(2)
const MIB = 1 << 20
const SIZE = 8 * MIB
const OK = { ok: true, problems: [] }

sh(`mkdir -p ${HOST}; mkfs.${filesystem} -q /dev/ram0 || mkfs.${filesystem} /dev/ram0`)

const open = (): Promise<ImageStore> => ImageStore.open(`${HOST}/images`, { metadata: METADATA })

/** Writes a block to a device. */
function writeBlock(path: string, value: number, at: number): void {
  const device = openSync(path, 'r+')
  writeSync(device, Buffer.alloc(4096, value), 0, 4096, at)
  fsyncSync(device)
  closeSync(device)
}

const attributes = (path: string): string => sh(`lsattr ${path}`).split(' ')[0] ?? ''

async function clear(): Promise<void> {
  const store = await open()
  for (const { name } of await store.list()) {
    if (await store.isMapped(name)) await store.unmap(name)
  }
  await store.removeAll()
}

async function rejects(t: Test, call: () => Promise<unknown>, code: string): Promise<void> {
  await t.rejects(
    async () => {
      await call()
    },
    { code },
  )
}

await mount()
const source = '/tmp/source'
randomFile(source, SIZE)
const SUM = await sha256(source, SIZE)
const store = await open()

/** A test, after which the store is empty again. */
async function check(name: string, test: (t: Test) => Promise<void>): Promise<void> {
  await t.test(name, async (t) => {
    await test(t)
    await clear()
    t.strictSame(readdirSync(`${HOST}/images`), [], 'no file is left')
    t.strictSame(readdirSync(METADATA), [], 'and no metadata')
  })
}

await check('an image by its name', async (t) => {
  t.strictSame(await store.list(), [])
  const calls = [
    () => store.get('a'),
    () => store.delete('a'),
    () => store.map('a'),
    () => store.unmap('a'),
    () => store.validate('a'),
    () => store.resize('a', MIB),
    () => store.disable('a'),
    () => store.isMapped('a'),
  ]
  for (const call of calls) await rejects(t, call, 'DMLOOP_NO_SUCH_IMAGE')
  const made = await store.create('a', { from: source })
  const path = `${HOST}/images/a.img`
  t.match(made, { name: 'a', size: SIZE, readOnly: false, disabled: false, files: [path] })
  t.strictSame(await store.get('a'), made)
  t.strictSame(await store.list(), [made])
  await t.rejects(store.create('a', { size: MIB }), { code: 'DMLOOP_IMAGE_EXISTS' })
  t.match(attributes(path), /i/, 'it is guarded')
  t.throws(() => writeFileSync(path, ''), { code: 'EPERM' })
  t.strictSame(await store.validate('a'), OK)
  t.equal(await store.isMapped('a'), false)
  await t.rejects(store.unmap('a'), { code: 'DMLOOP_NOT_MAPPED' })

  const device = await store.map('a')
  t.match(device, { path: '/dev/mapper/a', size: SIZE, files: [path] })
  t.equal(await sha256(device.path, SIZE), SUM)
  t.equal(await store.isMapped('a'), true)
  t.strictSame(await device.verify({ content: 'full' }), OK)
  t.strictSame(await store.validate('a'), OK, 'also while it is mapped')
  await t.rejects(store.map('a'), { code: 'DMLOOP_ALREADY_MAPPED' })
  await t.rejects(store.delete('a'), { code: 'DMLOOP_IMAGE_IN_USE', message: /mapper\/a/ })
  await t.rejects(store.removeAll(), { code: 'DMLOOP_IMAGE_IN_USE' })
  await device.extend()
  t.equal(device.size, SIZE, 'its label is no part of it')
  readFileSync(path)
  writeBlock(device.path, 1, MIB)
  await store.unmap('a')
  t.equal(readFileSync(path)[MIB], 1, 'no cached page is left')
  t.match(attributes(path), /i/, 'it is guarded all the same')
  await t.rejects(releaseFile(path), { code: 'DMLOOP_IMAGE_IN_USE' })
  t.match(attributes(path), /i/)
  const file = await mapFile(path)
  t.equal(file.size, SIZE, 'mapFile leaves the label to the store as well')
  await file.unmap()
  t.strictSame(await store.validate('a'), OK)
  await using again = await store.map('a', { name: 'other', udevScan: false })
  t.equal(again.path, '/dev/mapper/other')
})

await check('what is not to be', async (t) => {
  for (const name of ['', '.a', 'a/b', '../a', 'ä', 'a b', 'x'.repeat(101)]) {
    await t.rejects(store.create(name, { size: MIB }), { code: 'ERR_INVALID_ARG_VALUE' })
  }
  await t.rejects(store.create('a', {}), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.rejects(store.create('a', { size: 1 << 30 }), { code: 'DMLOOP_NO_SPACE' })
  await t.rejects(store.create('a', { from: source, size: MIB }), { code: 'DMLOOP_BAD_IMAGE' })
  t.strictSame(await store.list(), [])
  t.strictSame(readdirSync(METADATA), [])
  sh('mkdir -p /tmp/direct; mkfs.ext4 -q /dev/ram1; mount /dev/ram1 /tmp/direct')
  const direct = await ImageStore.open('/tmp/direct')
  const content = Readable.from(['never read'])
  const claimed = { code: 'DMLOOP_DEVICE_CLAIMED', file: '/tmp/direct', message: /wrapDevice/ }
  await t.rejects(direct.create('a', { from: content }), claimed, 'before anything is written')
  t.equal(content.readableDidRead, false)
  t.strictSame(await direct.list(), [])
  sh('umount /tmp/direct')
  // Somebody's own file.
  writeFileSync(`${HOST}/images/a.img`, 'mine')
  await t.rejects(store.create('a', { size: MIB }), { code: 'DMLOOP_IMAGE_EXISTS' })
  t.equal(readFileSync(`${HOST}/images/a.img`, 'utf8'), 'mine')
  sh(`rm ${HOST}/images/a.img`)
})

await check('a process that is killed while it has the journal written out', async (t) => {
  if (filesystem === 'ext4') return
  const script = `const { native } = await import('#lib/kernel/native.js')
    const { openSync } = await import('node:fs')
    const fd = openSync(process.argv[1], 'r')
    process.stdout.write('x')
    for (;;) await native.flushJournal(fd)`
  const file = `${HOST}/written`
  const root = fileURLToPath(new URL('../../..', import.meta.url))
  writeFileSync(file, '')
  for (let round = 0; round < scaled(10, 5); round++) {
    // It has something to write out.
    writeFileSync(file, Buffer.alloc(4 * MIB, round))
    const command = ['--input-type=module', '--eval', script, file]
    const child = spawn(process.execPath, command, {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await once(child.stdout, 'data')
    await sleep(20 * round)
    child.kill('SIGKILL')
    await once(child, 'exit')
    // Whoever writes to a frozen filesystem waits for good.
    const written = spawnSync('timeout', [
      '-s',
      'KILL',
      '20',
      'sh',
      '-c',
      `echo >${file}; sync ${file}`,
    ])
    if (written.status !== 0) spawnSync('fsfreeze', ['-u', HOST])
    t.equal(written.status, 0, `round ${round}: it is not frozen`)
  }
  sh(`rm ${file}`)
})

await check('a reboot', async (t) => {
  const names = ['a', 'b', 'c']
  for (const name of names) await store.create(name, { from: source })
  await store.create('parts', { from: source, maxFileSize: 3 * MIB })
  await store.create('ro', { from: source, readOnly: true })
  await store.create('off', { size: MIB })
  await store.disable('off')
  {
    await using device = await store.map('b')
    writeBlock(device.path, 7, 0)
  }
  reboot()
  const after = await open()
  const seen: Progress[] = []
  const { mapped, problems } = await after.mapAll({ onProgress: (progress) => seen.push(progress) })
  t.strictSame(problems, [])
  t.strictSame(
    mapped.map(({ name }) => name),
    ['a', 'b', 'c', 'parts', 'ro'],
  )
  t.strictSame(seen.at(-1), { done: 5 * SIZE, total: 5 * SIZE })
  for (const { name, path } of mapped) {
    const sum = await sha256(path, SIZE)
    if (name === 'b') t.equal(readFileSync(path)[0], 7)
    else t.equal(sum, SUM, name)
  }
  t.equal(sh('blockdev --getro /dev/mapper/ro').trim(), '1')
  t.strictSame((await after.mapAll()).mapped, mapped, 'a second time nothing is done')
  writeBlock('/dev/mapper/a', 9, MIB)
  t.ok(deviceNames().includes('host'), 'the wrapper is there')

  await mount()
  for (const { name } of mapped) t.strictSame(await after.validate(name), OK, name)
  t.equal(await after.isMapped('a'), true)
  const device = await openMapping('a')
  t.strictSame(device.files, [`${HOST}/images/a.img`], 'it is adopted')
  t.strictSame(await device.verify({ content: 'full' }), OK)
  t.strictSame((await openMapping('parts')).files.length, 3)
  await t.rejects(mapFile(`${HOST}/images/a.img`), { code: 'DMLOOP_ALREADY_MAPPED' })
  readFileSync(`${HOST}/images/a.img`)
  writeBlock('/dev/mapper/a', 10, MIB)
  await after.unmap('a')
  t.equal(readFileSync(`${HOST}/images/a.img`)[MIB], 10)
  t.match(attributes(`${HOST}/images/a.img`), /i/)
  t.strictSame(await after.removeDisabled(), ['off'])
})

await check('what is no longer as it was recorded', async (t) => {
  const change = async (name: string, command: string): Promise<void> => {
    await store.create(name, { from: source })
    sh(`cd ${HOST}/images; chattr -i ${name}.img; ${command}; sync`)
    const { ok, problems } = await store.validate(name)
    t.equal(ok, false, name)
    t.ok(
      problems.some(({ code }) => code === 'DMLOOP_FILE_CHANGED'),
      problems[0]?.message ?? '',
    )
    await t.rejects(store.map(name), { code: /^DMLOOP_/ }, name)
  }
  await change('replaced', 'cp replaced.img new; mv new replaced.img')
  await change('cut', 'truncate -s 4M cut.img')
  await change('longer', 'head -c 8192 /dev/zero >>longer.img')
  await change('gone', 'rm gone.img')
  // Blocks that move, while everything else stays: every run of them is told.
  await store.create('moved', { from: source })
  const moved = `${HOST}/images/moved.img`
  const move = (): string =>
    sh(`chattr -i ${moved}; cp ${moved} /tmp/copy; fallocate -l 3M ${HOST}/spare; sync
      fallocate -p -o 1M -l 1M ${moved}; fallocate -p -o 5M -l 64K ${moved}; sync
      i=0; for size in 64M 4M 256K 16K; do
        while fallocate -l $size ${HOST}/fill-$i 2>/dev/null; do i=$((i + 1)); done
        rm -f ${HOST}/fill-$i; done
      rm ${HOST}/spare; sync
      dd if=/tmp/copy of=${moved} bs=64K skip=16 seek=16 count=16 conv=notrunc status=none
      dd if=/tmp/copy of=${moved} bs=64K skip=80 seek=80 count=1 conv=notrunc status=none
      sync; chattr +i ${moved}; rm ${HOST}/fill-*`)
  if (filesystem === 'f2fs') {
    t.throws(move, 'f2fs takes no blocks from a pinned file')
  } else {
    move()
    const { problems } = await store.validate('moved')
    t.ok(problems.length > 0)
    for (const { code, file, offset = 0, length = 0 } of problems) {
      t.match({ code, file }, { code: 'DMLOOP_FILE_CHANGED', file: moved })
      const end = offset + length
      t.ok((offset >= MIB && end <= 2 * MIB) || (offset >= 5 * MIB && end <= 5 * MIB + 65536))
    }
    await t.rejects(store.map('moved'), { code: 'DMLOOP_FILE_CHANGED' })
  }
  reboot()
  const { mapped, problems: found } = await (await open()).mapAll()
  // A file that was rewritten in place has its label still; the others do not.
  for (const { name } of mapped) t.match(name, /moved|replaced|cut|longer|gone/)
  t.comment(found.map(({ name, problem }) => `${name}: ${problem.message}`).join('\n'))
  for (const { name } of mapped) await (await open()).unmap(name).catch(() => undefined)
  for (const name of deviceNames()) if (name !== 'host') sh(`dmsetup remove ${name}`)
  await mount()
  sh(`chattr -i ${HOST}/images/*; rm -f ${HOST}/images/*; rm ${METADATA}/*`)
})

await check('a label that is not there', async (t) => {
  await store.create('a', { from: source })
  await store.create('b', { from: source })
  const { disks, label } = JSON.parse(readFileSync(`${METADATA}/a.json`, 'utf8')) as {
    disks: unknown[]
    label: { sector: number }
  }
  t.match(disks, [{ by: 'UUID', size: Number(sh('blockdev --getsize64 /dev/ram0')) }])
  reboot()
  sh(`dd if=/dev/urandom of=/dev/ram0 bs=512 seek=${label.sector} count=8 conv=notrunc status=none; sync
    echo 3 >/proc/sys/vm/drop_caches`)
  const again = await open()
  const { mapped, problems } = await again.mapAll()
  t.match(mapped, [{ name: 'b' }])
  t.match(problems, [{ name: 'a', problem: { code: 'DMLOOP_FILE_CHANGED', message: /label/ } }])
  t.notOk(deviceNames().includes('a'))
  await mount()
  t.match((await again.validate('a')).problems, [{ code: 'DMLOOP_FILE_CHANGED', message: /label/ }])
})

await check('larger, mapped or not', async (t) => {
  await store.create('a', { from: source })
  const seen: Progress[] = []
  await store.resize('a', SIZE + 3 * MIB, { onProgress: (progress) => seen.push(progress) })
  t.strictSame(seen.at(-1), { done: 3 * MIB, total: 3 * MIB })
  t.equal((await store.get('a')).size, SIZE + 3 * MIB)
  t.strictSame(await store.validate('a'), OK)
  const device = await store.map('a')
  const isRight = async (size: number): Promise<void> => {
    const { path } = await openMapping('a')
    t.equal(Number(sh(`blockdev --getsize64 ${path}`)), size)
    t.equal(await sha256(path, SIZE), SUM)
    const rest = readFileSync(path).subarray(SIZE)
    t.ok(rest.equals(Buffer.alloc(size - SIZE)), 'what was added is zeros')
  }
  await isRight(SIZE + 3 * MIB)
  await store.resize('a', SIZE + 4 * MIB)
  await isRight(SIZE + 4 * MIB)
  t.strictSame(await store.validate('a'), OK)
  t.strictSame(await (await openMapping('a')).verify({ content: 'full' }), OK)
  await t.rejects(store.resize('a', SIZE), { code: 'ERR_OUT_OF_RANGE' })
  await t.rejects(store.resize('a', SIZE + 4 * MIB + 512), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.rejects(store.resize('a', 1 << 30), { code: 'DMLOOP_NO_SPACE' })
  const enough = new Error('enough')
  const controller = new AbortController()
  const onProgress = (): void => controller.abort(enough)
  const { signal } = controller
  await t.rejects(store.resize('a', SIZE + 200 * MIB, { signal, onProgress }), enough)
  t.equal((await store.get('a')).size, SIZE + 4 * MIB, 'as before')
  t.strictSame(await store.validate('a'), OK)
  await isRight(SIZE + 4 * MIB)
  await (await openMapping('a')).unmap()
  await device.unmap()
  reboot()
  t.strictSame((await (await open()).mapAll()).problems, [])
  await isRight(SIZE + 4 * MIB)
  await mount()
})

await check('metadata of another version, or damaged', async (t) => {
  await store.create('a', { size: MIB })
  await store.create('b', { size: MIB })
  const path = `${METADATA}/a.json`
  const good = readFileSync(path, 'utf8')
  const whole = JSON.parse(good) as Record<string, unknown>
  const bad = [
    JSON.stringify({ ...whole, version: 2 }),
    good.slice(0, 100),
    '',
    'null',
    JSON.stringify({ ...whole, size: 12 }),
    JSON.stringify({ ...whole, segments: [[0, 2048, 0, 2 ** 50]] }),
    JSON.stringify({ ...whole, segments: [[0, 2048, 7, 0]] }),
    JSON.stringify({ ...whole, files: 'a' }),
    JSON.stringify({ ...whole, label: { disk: 0, sector: 2 ** 50 } }),
  ]
  const calls = [
    () => store.get('a'),
    () => store.list(),
    () => store.map('a'),
    () => store.delete('a'),
    () => store.disable('a'),
    () => store.resize('a', 2 * MIB),
    () => store.create('a', { size: MIB }),
    () => store.removeAll(),
  ]
  for (const text of bad) {
    writeFileSync(path, text)
    for (const call of calls) await rejects(t, call, 'DMLOOP_BAD_METADATA')
    const { mapped, problems } = await store.mapAll()
    t.match(mapped, [{ name: 'b' }], 'the others are mapped')
    t.match(problems, [{ name: 'a', problem: { code: 'DMLOOP_BAD_METADATA' } }])
    await store.unmap('b')
    t.equal(readFileSync(path, 'utf8'), text, 'they are left alone')
  }
  writeFileSync(path, good)
})

await check('a store whose directory is not there', async (t) => {
  await store.create('a', { size: MIB })
  reboot()
  const away = await open()
  await t.rejects(away.create('b', { size: MIB }), { code: 'ENOENT' })
  await t.rejects(away.delete('a'), { code: 'DMLOOP_FILE_UNREACHABLE' })
  const device = await away.map('a')
  t.equal(device.size, MIB)
  t.equal(await away.isMapped('a'), true)
  // Nothing is known of the caches of a filesystem that is mounted nowhere: there are none.
  await t.rejects(away.unmap('a'), { code: 'DMLOOP_FILE_UNREACHABLE' })
  t.equal(await away.isMapped('a'), false)
  await mount()
  t.strictSame(await away.validate('a'), OK)
  const own = await ImageStore.open(`${HOST}/own`)
  t.strictSame(await own.list(), [])
  await t.rejects(own.get('a'), { code: 'DMLOOP_NO_SUCH_IMAGE' })
})

await check('partitions', async (t) => {
  randomFile('/tmp/disk', SIZE)
  sh('sfdisk -q /tmp/disk', 'label: gpt\nfirst-lba: 34\nstart=64, size=128\nstart=256, size=128\n')
  await store.create('disk', { from: '/tmp/disk', partitions: true })
  {
    await using device = await store.map('disk')
    t.equal(device.partitions.length, 2)
  }
  reboot()
  await (await open()).mapAll()
  t.ok(deviceNames().includes('disk2'))
  await mount()
  await store.unmap('disk')
  t.strictSame(deviceNames(), ['host'])
})

await check('another image with the same content', async (t) => {
  await store.create('a', { from: source })
  const copy = `${HOST}/copy`
  await createImage(copy, { from: source })
  await using device = await mapFile(copy)
  t.match(await store.mapAll(), { mapped: [{ name: 'a' }], problems: [] })
  t.equal((await listMappings()).length, 3)
  await store.unmap('a')
  await device.unmap()
  sh(`rm ${copy}`)
})

await clear()
reboot()
t.strictSame(deviceNames(), [])
sh('mkdir -p /run/dmloop')
t.strictSame(leftFiles(), [])
