// node fence.js FILESYSTEM: the fence. While a file is mapped with one, its filesystem cannot reach its blocks, and
// everything else on the filesystem is as always.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  constants,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import t, { type Test } from 'tap'
import {
  ImageStore,
  listMappings,
  mapFile,
  openMapping,
  planFile,
  releaseFile,
  type MappedDevice,
} from 'dmloop'
import { deviceNames, fragmentedFile, leftFiles, makeHost, randomFile, scaled, sh } from './lab.js'
import { HOST, METADATA, mount, reboot } from './store-host.js'

const [filesystem = 'ext4'] = process.argv.slice(2)
const MIB = 1 << 20
const BLOCK = 4096
const OK = { ok: true, problems: [] }

sh(`mkdir -p ${HOST}; mkfs.${filesystem} -q ${filesystem === 'ext4' ? '-b 4096' : ''} /dev/ram0`)
await mount()

/** What the wrapper gives errors for, in sectors. */
const fenced = (): { start: number; length: number }[] =>
  [...sh('dmsetup table host').matchAll(/^(\d+) (\d+) error/gm)].map(([, start, length]) => ({
    start: Number(start),
    length: Number(length),
  }))

/** Where files are stored on the wrapper, in sectors. */
async function stored(...files: string[]): Promise<{ start: number; length: number }[]> {
  const found = []
  for (const file of files) {
    for (const { physical, length } of (await planFile(file)).extents) {
      found.push({ start: physical / 512, length: length / 512 })
    }
  }
  return found.sort((a, b) => a.start - b.start)
}

const isWhole = (t: Test): void => {
  t.match(sh('dmsetup table host'), /^0 \d+ linear 1:0 0\n$/, 'the wrapper is whole')
  t.notMatch(sh('dmsetup info host'), /INACTIVE/)
}

/** The error of reading or writing a block of a file through its filesystem. */
function failureOf(file: string, how: 'read' | 'write', flags = 0): string | undefined {
  const access = how === 'read' ? constants.O_RDONLY : constants.O_WRONLY
  const fd = openSync(file, access | flags)
  // Aligned, as direct I/O has it.
  const pages = new Uint8Array(2 * BLOCK)
  try {
    if (how === 'read') readSync(fd, pages, 0, BLOCK, 0)
    else writeSync(fd, pages.fill(0xee), 0, BLOCK, 0)
    fsyncSync(fd)
    return undefined
  } catch (error) {
    return (error as NodeJS.ErrnoException).code
  } finally {
    closeSync(fd)
  }
}

const dd = (words: string): void => void sh(`dd ${words} bs=64K status=none`)

function writeBlock(device: MappedDevice, value: number, at: number): void {
  const fd = openSync(device.path, 'r+')
  writeSync(fd, Buffer.alloc(BLOCK, value), 0, BLOCK, at)
  fsyncSync(fd)
  closeSync(fd)
}

// While little else is free than what it is to have; ext4 keeps 8 MiB for itself, in one piece.
const pieces = `${HOST}/pieces`
fragmentedFile(pieces, 16 * MIB, 2500, 1)
sh(`rm -f ${HOST}/.filler`)
const file = `${HOST}/image`
randomFile(file, 4 * MIB)

async function check(name: string, test: (t: Test) => Promise<void>): Promise<void> {
  await t.test(name, async (t) => {
    await test(t)
    t.strictSame(deviceNames(), ['host'], 'no device is left')
    t.strictSame(leftFiles(), [], 'and no record')
    isWhole(t)
  })
}

await check('the blocks of a mapped file, and no others', async (t) => {
  const content = readFileSync(file)
  const places = await stored(file)
  const device = await mapFile(file, { fence: true })
  t.strictSame(fenced(), places)
  t.ok(readFileSync(device.path).equals(content), 'the device reads as ever')
  writeBlock(device, 7, MIB)
  content.fill(7, MIB, MIB + BLOCK)
  sh('echo 3 >/proc/sys/vm/drop_caches')
  t.equal(failureOf(file, 'read'), 'EIO')
  t.throws(() => {
    dd(`if=${file} of=/dev/null iflag=direct`)
  }, /Input\/output error/)
  t.strictSame(await device.verify({ content: 'full' }), OK)
  t.strictSame(fenced(), places, 'verify has put it back')
  writeFileSync(`${HOST}/other`, content)
  sh(`sync ${HOST}/other; echo 3 >/proc/sys/vm/drop_caches; rm ${HOST}/other; sync`)
  await device.unmap()
  t.ok(readFileSync(file).equals(content), 'the file has what was written to the device')
})

await check('root writes through the file', async (t) => {
  const content = readFileSync(file)
  const ways: Record<string, () => string | undefined> = {
    'a buffered write': () => failureOf(file, 'write'),
    'a direct write': () => {
      t.throws(() => {
        dd(`if=/dev/zero of=${file} count=1 oflag=direct conv=notrunc`)
      }, /Input\/output error/)
      return 'EIO'
    },
    'a buffered write to a page that is cached': () => {
      // The fence keeps nobody from pages that are in memory.
      const fd = openSync(file, 'r+')
      writeSync(fd, 'x', 2 * BLOCK)
      closeSync(fd)
      return 'EIO'
    },
  }
  for (const [way, write] of Object.entries(ways)) {
    readFileSync(file)
    const device = await mapFile(file, { fence: true })
    writeBlock(device, 9, 0)
    content.fill(9, 0, BLOCK)
    sh(`chattr -i ${file}`)
    t.equal(write(), 'EIO', way)
    t.ok(readFileSync(device.path).equals(content), 'the device’s bytes stand')
    const { problems } = await device.verify()
    t.ok(
      problems.some(({ code }) => code === 'DMLOOP_UNGUARDABLE'),
      'verify finds the missing flag',
    )
    await device.unmap()
    sh('sync; echo 3 >/proc/sys/vm/drop_caches')
    t.ok(readFileSync(file).equals(content), 'and are the file’s')
    t.notMatch(sh(`lsattr ${file}`).split(' ')[0], /i/)
  }
  // The next syncfs(2) of the filesystem reports what has failed, once.
  sh(`sync -f ${file} || true`)
})

await check('what cannot have a fence', async (t) => {
  const host = makeHost(filesystem, '0 800000 linear 1:1 0\n', { name: 'plain' })
  randomFile(`${host.path}/image`, MIB)
  await t.rejects(mapFile(`${host.path}/image`, { fence: true }), { code: 'DMLOOP_UNFENCED' })
  t.notMatch(sh(`lsattr ${host.path}/image`).split(' ')[0], /i/, 'nothing was changed')
  host.remove()
  const invalid = { code: 'ERR_INVALID_ARG_VALUE' }
  await t.rejects(mapFile(file, { fence: true, guard: 'none' }), invalid)
  await t.rejects(mapFile(file, { fence: true, backend: 'loop' }), invalid)
  await t.rejects(mapFile(file, { fence: true, backend: 'auto' }), invalid)
})

await check('two files, of which one is unmapped', async (t) => {
  const second = `${HOST}/second`
  randomFile(second, MIB)
  const [one, both] = [await stored(second), await stored(file, second)]
  const [a, b] = [await mapFile(file, { fence: true }), await mapFile(second, { fence: true })]
  t.strictSame(fenced(), both)
  t.match(await a.verify({ content: 'sample' }), OK)
  t.match((await planFile(second)).problems, [{ code: 'DMLOOP_ALREADY_MAPPED' }])
  await a.unmap()
  t.strictSame(fenced(), one)
  // A file without a fence, mapped and unmapped beside it.
  await (await mapFile(file)).unmap()
  t.strictSame(fenced(), one)
  // One of which the unwritten half is not mapped.
  const half = `${HOST}/half`
  randomFile(half, MIB)
  sh(`fallocate -l ${2 * MIB} ${half}; sync ${half}`)
  const c = await mapFile(half, { fence: true, readOnly: true, holes: 'zero' })
  t.equal(c.size, 2 * MIB)
  await (await mapFile(file, { fence: true })).unmap()
  t.strictSame(await c.verify({ content: 'full' }), OK)
  await c.unmap()
  sh(`rm ${half}`)
  const whole = (await listMappings()).find(({ name }) => name === 'host')
  t.match(await whole?.verify(), OK, 'the wrapper is as it must be')
  await b.unmap()
  sh(`rm ${second}`)
})

await check('a thousand segments, while the filesystem is at work', async (t) => {
  const content = readFileSync(pieces)
  const load = spawn(
    'fio',
    [
      ...['--name=load', `--filename=${HOST}/load`, '--size=16M', '--rw=randrw', '--bs=4k'],
      ...['--direct=0', '--fsync=16', '--verify=crc32c', '--verify_fatal=1', '--ioengine=psync'],
      // fio looks at all devices in /sys for its figures, and complains of those that come and go.
      '--disk_util=0',
      ...['--time_based', '--verify_state_save=0', `--runtime=${scaled(10, 10)}`, '--minimal'],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  let said = ''
  load.stderr.on('data', (data: Buffer) => (said += data.toString()))
  const ended = once(load, 'close')
  for (let round = 0; round < scaled(5, 2); round++) {
    const device = await mapFile(pieces, { fence: true })
    t.ok(device.segmentCount > 900, `${device.segmentCount} segments`)
    t.ok(fenced().length > 900)
    writeBlock(device, round, 3 * MIB)
    content.fill(round, 3 * MIB, 3 * MIB + BLOCK)
    await device.unmap()
  }
  const [status] = (await ended) as [number]
  t.strictSame({ status, said }, { status: 0, said: '' }, 'no request of others has failed')
  t.ok(readFileSync(pieces).equals(content))
  sh(`rm -f ${pieces} ${HOST}/load`)
})

await check('several processes', async (t) => {
  const names = Array.from({ length: 4 }, (_, index) => `${HOST}/crowd-${index}`)
  for (const name of names) randomFile(name, MIB)
  const script = `const { mapFile } = await import('dmloop')
    for (let round = 0; round < ${scaled(4, 2)}; round++) {
      const device = await mapFile(process.argv[1], { fence: true })
      const { ok, problems } = await device.verify({ content: 'sample' })
      if (!ok) throw new Error(JSON.stringify(problems))
      await device.unmap()
    }`
  const root = new URL('../../../', import.meta.url).pathname
  const runs = names.map(async (name) => {
    const command = ['--input-type=module', '--eval', script, name]
    const child = spawn(process.execPath, command, {
      cwd: decodeURIComponent(root),
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let said = ''
    child.stderr.on('data', (data: Buffer) => (said += data.toString()))
    const [status] = (await once(child, 'close')) as [number]
    return { status, said }
  })
  for (const run of await Promise.all(runs)) t.strictSame(run, { status: 0, said: '' })
  sh(`rm ${HOST}/crowd-*`)
})

await check('verified by two at a time', async (t) => {
  const device = await mapFile(file, { fence: true })
  const places = fenced()
  for (let round = 0; round < scaled(5, 2); round++) {
    const other = await openMapping('image')
    const [a, b, c] = await Promise.all([
      device.verify({ content: 'full' }),
      other.verify({ content: 'full' }),
      other.verify(),
    ])
    t.strictSame([a, b, c], [OK, OK, OK])
    t.strictSame(fenced(), places)
  }
  await device.unmap()
})

await check('what others do to it', async (t) => {
  const places = await stored(file)
  const whole = sh('dmsetup table host').trim()
  const size = Number(whole.split(' ')[1])
  const device = await mapFile(file, { fence: true })
  sh('dmsetup reload host; dmsetup resume host', `0 ${size} linear 1:0 0\n`)
  t.match(await device.verify(), { ok: false, problems: [{ code: 'DMLOOP_UNFENCED' }] })
  await device.unmap()

  await mapFile(file, { fence: true })
  sh('dmsetup remove image')
  t.strictSame(fenced(), places, 'it stays where its device is removed by someone else')
  await listMappings()
  isWhole(t)

  await mapFile(file, { fence: true })
  sh('dmsetup remove image; rm /run/dmloop/*')
  await releaseFile(file)
  isWhole(t)

  await mapFile(file, { fence: true })
  sh('dmsetup remove image; rm /run/dmloop/*')
  await (await mapFile(file)).unmap()
  isWhole(t)

  // A process that was killed between two calls.
  sh('dmsetup reload host', `0 8 error\n8 ${size - 8} linear 1:0 8\n`)
  await (await mapFile(file)).unmap()
  isWhole(t)

  // The file is mapped, and its filesystem mounted nowhere.
  const last = await mapFile(file, { fence: true })
  sh(`umount ${HOST}`)
  await t.rejects(last.unmap(), { code: 'DMLOOP_FILE_UNREACHABLE' })
  isWhole(t)
  await mount()
  await releaseFile(file)
  t.notMatch(sh(`lsattr ${file}`).split(' ')[0], /i/)
})

await check('an image of a store', async (t) => {
  const store = await ImageStore.open(`${HOST}/images`, { metadata: METADATA })
  await store.create('a', { size: MIB })
  const path = `${HOST}/images/a.img`
  const within = (): boolean => fenced().reduce((sum, { length }) => sum + length * 512, 0) === size
  let size = MIB
  const device = await store.map('a', { fence: true })
  t.ok(within(), 'its label is outside')
  t.strictSame(await store.validate('a'), OK)
  await store.resize('a', 2 * MIB)
  size = 2 * MIB
  t.ok(within(), 'also after it has grown')
  writeBlock(device, 5, MIB)
  t.strictSame(await store.validate('a'), OK)
  t.strictSame(await (await openMapping('a')).verify({ content: 'full' }), OK)
  await store.unmap('a')
  t.equal(readFileSync(path)[MIB], 5)

  reboot()
  t.match(await store.mapAll({ fence: true }), { mapped: [{ name: 'a' }], problems: [] })
  t.ok(within(), 'from its metadata alone')
  await mount()
  sh('echo 3 >/proc/sys/vm/drop_caches')
  t.equal(failureOf(path, 'read'), 'EIO')
  t.strictSame(await store.validate('a'), OK)
  await store.unmap('a')
  t.equal(readFileSync(path)[MIB], 5)
  await store.removeAll()
  sh(`rmdir ${HOST}/images; mkdir ${HOST}/images`)
})
