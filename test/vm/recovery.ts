// What is left of mappings that went without us, or only half: it is told from what is somebody else's.
import { once } from 'node:events'
import { spawn } from 'node:child_process'
import { closeSync, openSync, statSync, writeSync } from 'node:fs'
import t from 'tap'
import { listMappings, mapFile, openMapping, releaseFile } from 'dmloop'
import { native } from '#lib/kernel/native.js'
import { deviceNames, fileState, leftFiles, makeHost, oneSegment, randomFile, sh } from './lab.js'

const OK = { ok: true, problems: [] }
const ALREADY = { reason: { code: 'DMLOOP_ALREADY_MAPPED' } }
// With room for partitions, /dev/loop1 is 7:8.
sh('rmmod loop; modprobe loop max_part=7; mkdir -p /run/dmloop')
const host = makeHost('ext4', oneSegment(), { name: 'host' })
const path = (name: string): string => `${host.path}/${name}`
for (const name of ['a', 'b', 'c']) randomFile(path(name), 1 << 20)
const [a, b, c] = [path('a'), path('b'), path('c')]
const loops = (): string => sh('losetup -l --noheadings -O NAME,BACK-FILE,SIZELIMIT')
const nothingLeft = (t: Tap, also: string[] = []): void => {
  t.strictSame([deviceNames(), leftFiles(), loops()], [['host', ...also].sort(), [], ''])
}
type Tap = Pick<typeof t, 'strictSame'>

await t.test('the first mappings since the machine was started wait for each other', async (t) => {
  for (let round = 0; round < 5; round++) {
    sh('rm -rf /run/dmloop')
    const settled = await Promise.allSettled([a, a, a].map((file) => mapFile(file)))
    const errors = settled.filter(({ status }) => status === 'rejected')
    t.match(errors, [ALREADY, ALREADY], `round ${round}`)
    for (const mapping of await listMappings()) await mapping.unmap()
  }
  nothingLeft(t)
})

await t.test('a loop device on a file that was empty shows it', async (t) => {
  const file = path('grown')
  sh(`: >${file}; losetup -r /dev/loop0 ${file}`)
  randomFile(file, 1 << 20)
  await t.rejects(mapFile(file, { guard: 'none' }), { code: 'DMLOOP_ALREADY_MAPPED' })
  sh(`losetup -D; rm ${file}`)
  nothingLeft(t)
})

await t.test('loop devices have the numbers that the driver gives them', async (t) => {
  const first = await mapFile(c, { backend: 'loop', readOnly: true })
  const joined = await mapFile([a, b], { backend: 'loop', name: 'joined' })
  t.match(sh('dmsetup table joined'), /^0 2048 linear 7:8 0\n2048 2048 linear 7:16 0\n$/)
  t.equal(first.minor, statSync(first.path).rdev & 0xff)
  t.strictSame(await joined.verify({ content: 'full' }), OK)
  t.match(await openMapping(first.path), { uuid: first.uuid })
  await t.rejects(openMapping('/dev/loop1'), { code: 'DMLOOP_NOT_MAPPED' }, 'a part is no mapping')
  await first.unmap()
  await joined.unmap()
  nothingLeft(t)
})

await t.test('a loop device that is somebody else’s by now is left alone', async (t) => {
  const device = await mapFile(a, { backend: 'loop' })
  sh(`losetup -d ${device.path}; losetup ${device.path} ${c} --sizelimit 65536`)
  const theirs = loops()
  await t.rejects(device.extend(), { code: /ENXIO|DMLOOP_/ })
  t.match(await device.verify(), { ok: false })
  const settled = await native.loopClear(device.path, device.uuid, false)
  t.match(settled, { failure: { errno: -6 } })
  await device.unmap()
  // A record that is left, and a device that a kill has left half-made.
  const again = await mapFile(b, { backend: 'loop' })
  sh(
    `losetup -d ${again.path}; losetup ${again.path} ${a}; dmsetup create --notable -u ${again.uuid} b`,
  )
  const both = loops()
  for (const mapping of await listMappings()) await mapping.unmap()
  t.equal(loops(), both)
  t.ok(both.includes(theirs.trim().split('\n')[0] ?? 'nothing'))
  sh('losetup -D')
  nothingLeft(t)
})

await t.test('one of several files is mapped again by itself', async (t) => {
  const before = [a, b].map(fileState)
  const pair = await mapFile([a, b], { name: 'pair' })
  sh('dmsetup remove --retry pair')
  const single = await mapFile(a, { name: 'single' })
  await releaseFile(b)
  t.equal(fileState(b), before[1], 'the other is not mapped any more')
  await (await mapFile(b)).unmap()
  t.strictSame(await single.verify({ content: 'full' }), OK, 'the mapping of the first goes on')
  await pair.unmap()
  t.strictSame(await single.verify({ content: 'full' }), OK, 'whatever the old object is asked')
  await single.unmap()
  t.strictSame([a, b].map(fileState), before)
  nothingLeft(t)
})

await t.test(
  'the guard of a mapping that went goes with the next one, whatever that is',
  async (t) => {
    const before = fileState(a)
    for (const options of [
      { guard: 'none' },
      { backend: 'loop' },
      { backend: 'loop', readOnly: true },
      {},
    ] as const) {
      await mapFile(a, { name: 'gone' })
      sh('dmsetup remove --retry gone')
      t.match(sh(`lsattr ${a}`), /^-+i/)
      await (await mapFile(a, options)).unmap()
      t.equal(fileState(a), before, JSON.stringify(options))
    }
    // As cp -a copies it along with the file.
    sh(`setfattr -n trusted.dmloop -v immutable ${a}`)
    await (await mapFile(a)).unmap()
    t.equal(sh(`getfattr -d -m trusted ${a}`), '')
    t.equal(fileState(a), before)
    nothingLeft(t)
  },
)

await t.test('a mapped device is being written to while it is compared', async (t) => {
  const device = await mapFile(a)
  const out = openSync(device.path, 'r+')
  writeSync(out, Buffer.alloc(65536, 7), 0, 65536, 0)
  t.strictSame(await device.verify({ content: 'full' }), OK, 'dirty pages are no difference')
  closeSync(out)
  await device.unmap()
})

await t.test('a mapping that was removed by force while it was open', async (t) => {
  const device = await mapFile(a, { name: 'forced' })
  const held = openSync(device.path, 'r')
  const holder = spawn('sleep', ['1000'], { stdio: [held, 'ignore', 'ignore'] })
  await once(holder, 'spawn')
  closeSync(held)
  sh('dmsetup remove --force forced || true')
  t.match(sh('dmsetup table forced'), /error/)
  await (await mapFile(b)).unmap()
  t.match(await device.verify(), { ok: false })
  holder.kill('SIGKILL')
  await once(holder, 'exit')
  await device.unmap()
  t.notMatch(sh(`lsattr ${a}`), /^-+i/)
  nothingLeft(t)
})

host.remove()
