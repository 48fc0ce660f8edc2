// node image-kill.js FILESYSTEM [all]: SIGKILL between any two system calls of createImage and of provisionFile that
// change something. An image is there as a whole or not at all, a file that is provisioned reads as before, and
// the next call completes it.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { createImage, planFile, provisionFile } from 'dmloop'
import { killAt } from './kill-at.js'
import { makeHost, oneSegment, randomFile, sh, spread } from './lab.js'

const [filesystem = 'ext4', all] = process.argv.slice(2)
const MIB = 1 << 20

const sumOf = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex')

const host = makeHost(filesystem, oneSegment(), { mkfs: filesystem === 'f2fs' ? '-q' : '' })
const folder = `${host.path}/images`
const file = `${folder}/image`
const sources = ['/tmp/old', '/tmp/new'] as const
for (const source of sources) randomFile(source, 3 * MIB)
const [OLD, NEW] = sources.map((source) => readFileSync(source)) as [Buffer, Buffer]
mkdirSync(folder)

/** The calls to kill at: the last ones, which give files their names, and every 32nd of those before, or all. */
function callsOf(...args: string[]): number[] {
  const said = killAt(1_000_000, ...args)
  const count = Number(/^(\d+) calls in all$/.exec(said)?.[1])
  t.ok(count >= 10, said)
  const calls = Array.from({ length: count }, (_, index) => index + 1)
  if (all === 'all') return calls
  return spread(calls.filter((call) => call % 32 === 0 || call > count - LAST))
}

const LAST = 10

/** The image that is there, of one file or of several; undefined where there is none. */
function found(): Buffer | undefined {
  if (existsSync(file)) return readFileSync(file)
  if (!existsSync(`${file}.0000`)) return undefined
  const parts = readdirSync(folder).filter((name) => name.startsWith('image.'))
  return Buffer.concat(parts.sort().map((name) => readFileSync(`${folder}/${name}`)))
}

for (const [kind, maxFileSize] of Object.entries({ 'one file': 4 * MIB, 'several files': MIB })) {
  await t.test(`createImage of ${kind}, killed at each call`, async (t) => {
    const options = { maxFileSize, overwrite: true }
    await createImage(file, { from: sources[0], ...options })
    const calls = callsOf('create', file, sources[1], String(maxFileSize))
    for (const call of calls) {
      sh(`rm -rf ${folder}/* ${folder}/.d*`)
      await createImage(file, { from: sources[0], ...options })
      const killed = killAt(call, 'create', file, sources[1], String(maxFileSize))
      const left = found()
      // Of several files one is replaced after the other: then there is none, and never a mixed one.
      const isWhole =
        left === undefined ? maxFileSize === MIB : left.equals(OLD) || left.equals(NEW)
      t.ok(isWhole, `${call}: ${killed}`)
      // Where there is no image, nothing that is left of one is in the way, or taken for a part of the next.
      const next = left === undefined ? { maxFileSize: 2 * MIB } : options
      const paths = await createImage(file, { from: sources[1], ...next })
      t.ok(found()?.equals(NEW), 'the next call completes it')
      t.strictSame(
        readdirSync(folder).sort(),
        paths.map((path) => path.slice(folder.length + 1)),
        'nothing else is left',
      )
    }
  })
}

await t.test('provisionFile, killed at each call', async (t) => {
  const make = (): void =>
    void sh(`rm -rf ${folder}/*; cd ${folder}; truncate -s 3M image
      dd if=${sources[0]} of=image bs=4096 count=10 seek=100 conv=notrunc status=none
      fallocate -o 1M -l 1M image; sync image`)
  make()
  for (const call of callsOf('provision', file)) {
    make()
    const sum = sumOf(file)
    const killed = killAt(call, 'provision', file)
    sh('echo 3 >/proc/sys/vm/drop_caches')
    t.equal(sumOf(file), sum, `${call}: ${killed}`)
    await provisionFile(file)
    t.strictSame((await planFile(file)).problems, [], 'the next call completes it')
    t.equal(sumOf(file), sum)
  }
})
host.remove()
