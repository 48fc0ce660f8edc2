// What is other in Linux than it was in 6.1, and whether it gets around the guard: exchanging ranges of
// files, large folios, cachestat(2), which shows what of a file is in memory, and f2fs's pins.
import { spawn } from 'node:child_process'
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { mapFile } from 'dmloop'
import { native, result } from '#lib/kernel/native.js'
import {
  deviceNames,
  fileState,
  leftFiles,
  makeHost,
  oneSegment,
  randomFile,
  randomNumbers,
  scaled,
  sh,
  sha256,
} from './lab.js'
import { roundTrip } from './round-trip.js'

const OK = { ok: true, problems: [] }
const EXCHANGED = 64 << 10
const tool = (name: string): string =>
  fileURLToPath(new URL(`../../../test/tools/${name}`, import.meta.url))

const host = makeHost('xfs', oneSegment(), { mkfs: '-m reflink=1' })
// The programs of Debian 12 do not know the feature yet, so that mkfs.xfs cannot set it, nor xfs_db with
// its checks on: XFS_SB_FEAT_INCOMPAT_EXCHRANGE, fs/xfs/libxfs/xfs_format.h.
const EXCHRANGE = 1 << 6
const device = `/dev/mapper/${host.name}`
sh(`umount ${host.path}`)
const features = Number(sh(`xfs_db -c 'sb 0' -c 'print features_incompat' ${device}`).split('=')[1])
sh(`xfs_db -x -c 'sb 0' -c 'write -d features_incompat ${features | EXCHRANGE}' ${device}`)
sh(`mount ${device} ${host.path}; chmod 777 ${host.path}`)

/** A file of random bytes that belongs to a user without rights. */
function ownedFile(name: string): string {
  const path = `${host.path}/${name}`
  randomFile(path, 1 << 20)
  sh(`chown 65534:65534 ${path}`)
  return path
}

/** The user's process, which has both files open; see test/tools/exchange.pl. */
class Exchanger {
  readonly #child
  readonly #answers

  private constructor(mode: '<' | '+<', target: string, donor: string) {
    this.#child = spawn('perl', [tool('exchange.pl'), mode, target, donor], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#answers = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  static async open(mode: '<' | '+<', target: string, donor: string): Promise<Exchanger> {
    const exchanger = new Exchanger(mode, target, donor)
    await exchanger.#answer()
    return exchanger
  }

  async try(way: string): Promise<string> {
    this.#child.stdin.write(`${way}\n`)
    return this.#answer()
  }

  async #answer(): Promise<string> {
    const answer = await this.#answers.next()
    return answer.done === true ? 'it ended' : answer.value
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = new Promise((resolve) => this.#child.once('close', resolve))
    this.#child.stdin.end()
    await gone
  }
}

const WAYS = ['exchange', 'exchange-reversed', 'commit', 'commit-reversed']

await t.test('the kernel exchanges blocks of files that are not mapped', async (t) => {
  const [target, donor] = [ownedFile('target'), ownedFile('donor')]
  await using exchanger = await Exchanger.open('+<', target, donor)
  for (const way of WAYS) {
    const theirs = await sha256(donor, EXCHANGED)
    t.equal(await exchanger.try('start'), 'done', 'start')
    t.equal(await exchanger.try(way), 'done', way)
    t.equal(await sha256(target, EXCHANGED), theirs, `${way}: the bytes came over`)
  }
})

await t.test('a reader from before the mapping exchanges none', async (t) => {
  const [target, donor] = [ownedFile('held'), ownedFile('held-donor')]
  await using exchanger = await Exchanger.open('<', target, donor)
  const before = await exchanger.try('start')
  t.comment(`start, before the mapping: ${before}`)
  const mapped = await mapFile(target)
  const states = [target, donor].map(fileState)
  for (const way of [...WAYS, 'start', ...WAYS]) {
    const answer = await exchanger.try(way)
    if (way !== 'start') t.match(answer, /^(Bad file descriptor|Operation not permitted)$/, way)
    t.strictSame([target, donor].map(fileState), states, `${way}: both files are as they were`)
  }
  t.strictSame(await mapped.verify({ content: 'full' }), OK)
  await mapped.unmap()
})

await t.test('a writer from before is found, and what it does without a guard', async (t) => {
  for (const way of WAYS) {
    const [target, donor] = [ownedFile(`loose-${way}`), ownedFile(`loose-donor-${way}`)]
    await using exchanger = await Exchanger.open('+<', target, donor)
    await t.rejects(mapFile(target), { code: 'DMLOOP_FILE_IN_USE', message: /\(perl\)/ })
    const mapped = await mapFile(target, { guard: 'none' })
    t.equal(await exchanger.try('start'), 'done')
    t.equal(await exchanger.try(way), 'done', way)
    t.match(await mapped.verify(), {
      ok: false,
      problems: [{ code: 'DMLOOP_FILE_CHANGED', file: target, offset: 0 }],
    })
    await mapped.unmap()
  }
})

/** How many pages of a file are in memory. */
const cached = (path: string): number => Number(sh(`perl "${tool('cachestat.pl')}" ${path}`))

await t.test('nothing of large folios stays in memory', async (t) => {
  const BYTES = 4 << 20
  const file = `${host.path}/folios`
  randomFile(file, BYTES)
  const touch = `xfs_io -r -c 'mmap -r 0 ${BYTES}' -c 'mread -f 0 ${BYTES}' ${file}`
  for (let round = 0; round < scaled(10, 2); round++) {
    const mapped = await mapFile(file)
    readFileSync(file)
    sh(`${touch} >/dev/null`)
    t.equal(cached(file), BYTES / 4096, 'all of the file is in memory')
    const content = readFileSync(mapped.path)
    const out = openSync(mapped.path, 'r+')
    // Blocks of folios of any size: whole ones, and the middle of some.
    for (const at of [0, 4096, 1 << 20, (1 << 20) + 20480, BYTES - 4096]) {
      const block = Buffer.alloc(4096, round + 1)
      writeSync(out, block, 0, block.length, at)
      block.copy(content, at)
    }
    fsyncSync(out)
    closeSync(out)
    await mapped.unmap()
    t.equal(cached(file), 0, 'nothing is, after unmap')
    t.ok(readFileSync(file).equals(content), 'the file reads what was written to the device')
  }
})

host.remove()

await t.test('f2fs pins a file only before it has blocks', async (t) => {
  const other = makeHost('f2fs', oneSegment(), { mkfs: '-q' })
  const late = `${other.path}/late`
  randomFile(late, 1 << 20)
  const before = fileState(late)
  await t.rejects(mapFile(late), { code: 'DMLOOP_NOT_PINNED', message: /has blocks already/ })
  t.equal(fileState(late), before, 'the file is as it was')
  t.equal(sh(`getfattr -m - ${late}`), '', 'and bears no mark')

  const early = `${other.path}/early`
  await using handle = await open(early, 'w')
  await result(native.setPinned(handle.fd, true))
  await handle.close()
  sh(
    `fallocate -l 4M ${early}; head -c 4M /dev/urandom | dd of=${early} conv=notrunc,fsync status=none`,
  )
  const pinned = fileState(early)
  await (await mapFile(early)).unmap()
  t.equal(fileState(early), pinned, 'the pin stays')
  await roundTrip(t, early, { verify: 'full' }, randomNumbers(6))
  t.strictSame(deviceNames(), [other.name])
  t.strictSame(leftFiles(), [])
  other.remove()
})
