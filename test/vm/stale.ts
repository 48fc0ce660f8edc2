// node stale.js FILESYSTEM: readers keep pages of a mapped file in memory while the device is written to.
// Either unmap has them see what was written, or it says who keeps the old pages and holds the file until
// they are gone: in the end no write to the file puts an old byte on the disk.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, closeSync, fsyncSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { mapFile, planFile, releaseFile, type DmloopError, type MapOptions } from 'dmloop'
import { NO_WAIT } from '#lib/kernel/wait.js'
import { BackingFile } from '#lib/plan/backing-file.js'
import { dropStalePages } from '#lib/page-cache.js'
import { leftFiles, makeHost, oneSegment, sh } from './lab.js'

const HOLD_PAGES = fileURLToPath(new URL('../../../build/Release/hold-pages', import.meta.url))
const MKFS: Record<string, string> = { f2fs: '-q' }
const [filesystem = 'ext4'] = process.argv.slice(2)
const host = makeHost(filesystem, oneSegment(), { mkfs: MKFS[filesystem] ?? '' })
chmodSync(host.path, 0o755)
const file = `${host.path}/image`

/** On f2fs nobody else can open a mapped file. */
const AS_ROOT = filesystem === 'f2fs' ? ['root'] : []

/** Ends within a page, and within a block of the disk. */
const SIZE = (1 << 20) + 512 + 100
const SECTOR = 512
const LAST_SECTOR = 1 << 20

/** What is on the disk, past the page cache. */
const onDisk = (): string => sh(`dd if=${file} iflag=direct bs=1M status=none`)
const asCached = (): string => sh(`cat ${file}`)
const isHeld = (): boolean => /^-+i/.test(sh(`lsattr ${file}`))

/** The content of a file of As in which some sectors were written to. */
function bytesWith(sectors: readonly number[]): string {
  const bytes = Buffer.alloc(SIZE, 'A')
  for (const at of sectors) bytes.fill('B', at, at + SECTOR)
  return bytes.toString()
}

function makeFile(): void {
  writeFileSync(file, bytesWith([]))
  chmodSync(file, 0o644)
  sh(`sync ${file}`)
}

/** Writes to the places `sectors` of a file or device, and to the disk. */
function write(path: string, sectors: readonly number[], data: Buffer): void {
  const out = openSync(path, 'r+')
  for (const at of sectors) writeSync(out, data, 0, data.length, at)
  fsyncSync(out)
  closeSync(out)
}

/** A process that keeps pages of the file, of another user; see test/tools/hold-pages.cc. */
class Reader {
  readonly #process: ChildProcess
  readonly #answers: AsyncIterator<string>

  private constructor(how: string) {
    const child = spawn(HOLD_PAGES, [how, file, ...AS_ROOT], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#process = child
    this.#answers = createInterface(child.stdout)[Symbol.asyncIterator]()
  }

  static async start(how: string): Promise<Reader> {
    const reader = new Reader(how)
    await reader.#answers.next()
    return reader
  }

  get pid(): number {
    return this.#process.pid ?? 0
  }

  /** The first byte that it sees; '-' when it has nothing mapped. */
  async firstByte(): Promise<string> {
    this.#process.stdin?.write('\n')
    return (await this.#answers.next()).value as string
  }

  async end(): Promise<void> {
    this.#process.stdin?.end()
    await once(this.#process, 'exit')
  }
}

interface Case {
  readers: string[]
  sectors: number[]
  /** Whether Linux can be made to take the pages from those readers. */
  freed: boolean
}

const ENDS = [0, LAST_SECTOR]
const CASES: Record<string, Case> = {
  'a shared mapping': { readers: ['shared'], sectors: ENDS, freed: true },
  'a shared mapping, of the last page': {
    readers: ['shared'],
    sectors: [LAST_SECTOR],
    freed: true,
  },
  'a private mapping': { readers: ['private'], sectors: ENDS, freed: true },
  'a private mapping, written to': { readers: ['written'], sectors: ENDS, freed: true },
  'a locked mapping': { readers: ['locked'], sectors: ENDS, freed: false },
  'a locked mapping, of the last page': {
    readers: ['locked'],
    sectors: [LAST_SECTOR],
    freed: false,
  },
  // What stays is no reason to refuse, as long as it is what the disk has.
  'a locked mapping, and nothing written': { readers: ['locked'], sectors: [], freed: true },
  'a mapping of two readers': { readers: ['shared', 'private'], sectors: ENDS, freed: false },
  'pages in a pipe': { readers: ['spliced'], sectors: [0], freed: false },
  'pages in a pipe, by a mapping': { readers: ['vmspliced'], sectors: [0], freed: false },
}

/** Unmaps, or says why not. */
const refusal = async (done: Promise<void>): Promise<DmloopError | undefined> =>
  done.then(
    () => undefined,
    (error: unknown) => error as DmloopError,
  )

async function checkRefused(
  t: Test,
  error: DmloopError | undefined,
  readers: readonly Reader[],
  [first = 0]: readonly number[],
): Promise<void> {
  const length = Math.min(4096, SIZE - first)
  t.match(error, { code: 'DMLOOP_STALE_CACHE', file, offset: first, length })
  for (const reader of readers) {
    const seen = (await reader.firstByte()) !== '-'
    const words = seen ? new RegExp(`process ${reader.pid} \\(hold-pages\\)`) : /a pipe or/
    t.match(error?.message, words, error?.message ?? 'refused')
  }
  t.ok(isHeld(), 'the file is still held')
  t.throws(() => openSync(file, 'r+'), { code: 'EPERM' }, 'nobody can write to it')
}

for (const [what, { readers: hows, sectors, freed }] of Object.entries(CASES)) {
  await t.test(what, async (t) => {
    makeFile()
    const device = await mapFile(file)
    const readers: Reader[] = []
    for (const how of hows) readers.push(await Reader.start(how))
    write(device.path, sectors, Buffer.alloc(SECTOR, 'B'))
    const written = bytesWith(sectors)

    const error = await refusal(device.unmap())
    t.equal(error === undefined, freed, freed ? 'the pages go' : 'the pages stay')
    if (error) {
      await checkRefused(t, error, readers, sectors)
      await t.rejects(releaseFile(file), { code: 'DMLOOP_STALE_CACHE' }, 'releaseFile, as well')
    } else {
      for (const reader of readers) t.equal(await reader.firstByte(), written[0])
      t.ok(asCached() === written, 'the file reads as it was written')
    }
    for (const reader of readers) await reader.end()
    await (hows.length > 1 ? releaseFile(file) : device.unmap())
    t.notOk(isHeld(), 'the file is let go')
    t.strictSame(leftFiles(), [])

    t.ok(asCached() === written)
    write(file, [100], Buffer.from('x'))
    t.ok(onDisk() === `${written.slice(0, 100)}x${written.slice(101)}`, 'no old byte comes back')
  })
}

/** Removes a mapping that was written to by force of dmsetup, while a reader keeps old pages. */
async function leave(options: MapOptions): Promise<Reader> {
  makeFile()
  const device = await mapFile(file, { name: 'left', ...options })
  const reader = await Reader.start('locked')
  write(device.path, [0], Buffer.alloc(SECTOR, 'B'))
  sh('dmsetup remove left')
  return reader
}

const WRONG: Record<string, { begin: string; end: string }> = {
  'a table that waits': {
    begin: `echo "${oneSegment().trim()}" | dmsetup load ${host.name}`,
    end: `dmsetup clear ${host.name}`,
  },
  ...(filesystem === 'xfs' && {
    'a clone by its owner': { begin: `cp --reflink=always ${file} ${file}.clone`, end: ':' },
  }),
}
for (const [what, { begin, end }] of Object.entries(WRONG)) {
  await t.test(`releaseFile looks at the cache, whatever is wrong: ${what}`, async (t) => {
    const reader = await leave({})
    sh(begin)
    await t.rejects(releaseFile(file), { code: 'DMLOOP_STALE_CACHE' })
    t.ok(isHeld(), 'the file is still held')
    await reader.end()
    await releaseFile(file)
    t.notOk(isHeld())
    sh(`${end}; rm -f ${file}.clone; sync`)
    write(file, [100], Buffer.from('x'))
    t.equal(onDisk().slice(0, 102), `${'B'.repeat(100)}xB`, 'no old byte comes back')
    t.strictSame(leftFiles(), [])
  })
}

await t.test('releaseFile of a file without a guard, and without a record', async (t) => {
  if (filesystem === 'f2fs') return
  const reader = await leave({ guard: 'none' })
  sh('rm -rf /run/dmloop/*')
  await t.rejects(releaseFile(file), { code: 'DMLOOP_STALE_CACHE' })
  await reader.end()
  await releaseFile(file)
  t.ok(asCached() === bytesWith([0]))
})

await t.test('readers that come and go are no reason to refuse', async (t) => {
  // On f2fs a file is not mapped while anybody has it open: there they come when it is.
  const late = filesystem === 'f2fs'
  const ROUNDS = late ? 10 : 50
  makeFile()
  const start = (): (() => Promise<void>) => {
    const loop = `while cat ${file} >/dev/null; do :; done`
    // A group of its own, so that its cat ends with it.
    const reader = spawn('sh', ['-c', loop], { stdio: 'ignore', detached: true })
    return async () => {
      process.kill(-(reader.pid ?? 0))
      await once(reader, 'exit')
    }
  }
  let stop = late ? undefined : start()
  let stale = 0
  for (let round = 0; round < ROUNDS; round++) {
    const device = await mapFile(file)
    if (late) stop = start()
    const at = ((round * 7919) % ((SIZE / SECTOR) | 0)) * SECTOR
    const data = Buffer.alloc(SECTOR, `${round} `)
    write(device.path, [at], data)
    await device.unmap()
    if (asCached().slice(at, at + SECTOR) !== data.toString()) stale++
    if (late) await stop?.()
  }
  if (!late) await stop?.()
  t.equal(stale, 0, `${ROUNDS} rounds`)
})

await t.test('a mapping of more than 2 GiB', async (t) => {
  const END = 3 * 2 ** 30
  const BYTES = 1 << 20
  sh(`rm -f ${file}; head -c ${BYTES} /dev/zero | tr '\\0' A | dd of=${file} bs=1M seek=3071 iflag=fullblock status=none
    chmod 644 ${file}; sync ${file}`)
  const device = await mapFile(file, { offset: END - BYTES })
  const reader = await Reader.start('tail')
  write(device.path, [BYTES - 4096], Buffer.alloc(4096, 'B'))
  t.equal(await refusal(device.unmap()), undefined, 'its last page goes, as well')
  t.equal(await reader.firstByte(), 'B')
  await reader.end()
  await device.unmap()
})

/** Has direct reads served from the page cache, and ends that; shell. */
const BUFFERED: Record<string, { start: string; end: string }> = {
  ext4: {
    start: `umount ${host.path}; mount -o data=journal /dev/mapper/${host.name} ${host.path}`,
    end: `umount ${host.path}; mount /dev/mapper/${host.name} ${host.path}`,
  },
  f2fs: {
    start: `mount -o remount,checkpoint=disable ${host.path}`,
    end: `mount -o remount,checkpoint=enable ${host.path}`,
  },
}
const buffered = BUFFERED[filesystem]
if (buffered) {
  await t.test('where a direct read does not reach the disk', async (t) => {
    sh(`rm -f ${file}`)
    makeFile()
    const device = await mapFile(file)
    sh(buffered.start)
    t.match((await planFile(file)).problems, [{ blocks: 'linear' }], 'nothing is mapped there')
    const reader = await Reader.start('locked')
    write(device.path, ENDS, Buffer.alloc(SECTOR, 'B'))
    const written = bytesWith(ENDS)
    await checkRefused(t, await refusal(device.unmap()), [reader], ENDS)
    await t.rejects(releaseFile(file), { code: 'DMLOOP_STALE_CACHE' }, 'releaseFile, as well')
    t.ok(isHeld())
    await reader.end()
    await releaseFile(file)
    await device.unmap()
    t.notOk(isHeld(), 'the file is released')
    sh(buffered.end)
    write(file, [100], Buffer.from('x'))
    t.ok(onDisk() === `${written.slice(0, 100)}x${written.slice(101)}`, 'no old byte comes back')
  })
}

await t.test('a file of a TiB', async (t) => {
  sh(`truncate -s 1T ${file}; head -c 1M ${file} >/dev/null; sync ${file}`)
  await using backing = await BackingFile.open(file, NO_WAIT)
  const start = performance.now()
  await dropStalePages(backing)
  t.comment(`${(performance.now() - start).toFixed(0)} ms`)
})

host.remove()
