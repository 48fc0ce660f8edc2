// node store-crowd.js [SECONDS]: eight processes create, map, write, resize, validate and delete the same images of one
// store, and two of them are killed now and then. At the end metadata, files and devices agree.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readdirSync, writeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { DmloopError, ImageStore, wrapDevice } from 'dmloop'
import { below, deviceNames, randomNumbers, scaled, sh } from './lab.js'

const SELF = fileURLToPath(import.meta.url)
const MIB = 1 << 20
const DIRECTORY = '/tmp/host/images'
const METADATA = '/tmp/metadata'
const NAMES = ['a', 'b', 'c', 'd', 'e']
const [seconds = String(scaled(20, 10)), seed] = process.argv.slice(2)

/** What processes that meet may be told. */
const EXPECTED = new Set([
  ...['DMLOOP_IMAGE_EXISTS', 'DMLOOP_NO_SUCH_IMAGE', 'DMLOOP_IMAGE_IN_USE', 'DMLOOP_NOT_MAPPED'],
  ...['DMLOOP_ALREADY_MAPPED', 'DMLOOP_STILL_OPEN', 'DMLOOP_NO_SPACE', 'DMLOOP_FILE_IN_USE'],
  // Another process has made it larger.
  'ERR_OUT_OF_RANGE',
  // The device of a mapping may go before its path is opened; a busy image may be locked for long.
  ...['DMLOOP_TIMEOUT', 'ENOENT', 'ENXIO'],
])

function codeOf(error: unknown): string {
  if (error instanceof DmloopError) return error.code
  return error instanceof Error && 'code' in error ? String(error.code) : String(error)
}

/** Does something with one of the images, until the time is over. */
async function work(random: () => number): Promise<void> {
  const store = await ImageStore.open(DIRECTORY, { metadata: METADATA })
  const end = Date.now() + Number(seconds) * 1000
  const counts = new Map<string, number>()
  const actions: [string, (name: string) => Promise<unknown>][] = [
    ['create', (name) => store.create(name, { size: (1 + below(random, 3)) * MIB })],
    ['map', (name) => store.map(name, { timeout: 3000 })],
    [
      'write',
      async (name) => {
        const { path } = await store.map(name, { timeout: 3000 })
        const device = openSync(path, 'r+')
        writeSync(device, Buffer.alloc(4096, below(random, 256)), 0, 4096, 0)
        closeSync(device)
        await store.unmap(name)
      },
    ],
    ['unmap', (name) => store.unmap(name, { timeout: 3000 })],
    ['resize', async (name) => store.resize(name, (await store.get(name)).size + 64 * 1024)],
    ['delete', (name) => store.delete(name)],
    [
      'validate',
      async (name) => {
        const { problems } = await store.validate(name)
        if (problems[0]) throw new DmloopError(problems[0])
      },
    ],
    ['mapAll', () => store.mapAll()],
    ['list', () => store.list()],
  ]
  while (Date.now() < end) {
    const [action, run] = actions[below(random, actions.length)] as (typeof actions)[number]
    const name = NAMES[below(random, NAMES.length)] ?? 'a'
    const outcome = await run(name).then(
      () => 'done',
      (error: unknown) => {
        if (EXPECTED.has(codeOf(error))) return codeOf(error)
        console.log(`${action} ${name}: ${error instanceof Error ? error.stack : String(error)}`)
        return 'unexpected'
      },
    )
    const key = `${action} ${outcome}`
    counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  console.log(`counts ${JSON.stringify([...counts].sort())}`)
}

if (seed !== undefined) {
  await work(randomNumbers(Number(seed)))
} else {
  sh('mkfs.ext4 -q /dev/ram0; mkdir -p /tmp/host')
  const host = await wrapDevice('/dev/ram0', { name: 'host' })
  sh(`mount ${host.path} /tmp/host; mkdir ${DIRECTORY}`)

  const output: string[] = []
  const start = (number: number): ChildProcess => {
    const child = spawn(process.execPath, [SELF, seconds, String(number)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    child.stdout.on('data', (text: Buffer) => output.push(text.toString()))
    return child
  }
  const children = Array.from({ length: 6 }, (_, index) => start(index))
  // Two more are killed again and again.
  const random = randomNumbers(99)
  const end = Date.now() + Number(seconds) * 1000
  let kills = 0
  const victims = [6, 7].map(async (number) => {
    for (let round = 0; Date.now() < end; round++) {
      const child = start(number + 2 * round)
      const timer = setTimeout(() => child.kill('SIGKILL'), 1000 + below(random, 2000))
      await once(child, 'exit')
      clearTimeout(timer)
      kills++
    }
  })
  await Promise.all([...children.map((child) => once(child, 'exit')), ...victims])
  const text = output.join('')
  const unexpected = text.split('\n').filter((line) => line !== '' && !line.startsWith('counts'))
  t.strictSame(unexpected, [], 'nothing else went wrong')
  const done = [...text.matchAll(/\["(\w+) done",(\d+)\]/g)]
  t.comment(done.map(([, action, count]) => `${action} ${count}`).join(', '))
  t.ok(done.length > 5, 'there was much to do')
  t.ok(kills > 2, `${kills} were killed`)

  const store = await ImageStore.open(DIRECTORY, { metadata: METADATA })
  const { problems } = await store.mapAll()
  t.strictSame(problems, [])
  const images = await store.list()
  for (const { name } of images) {
    t.strictSame(await store.validate(name), { ok: true, problems: [] }, name)
    t.equal(await store.isMapped(name), true)
  }
  t.strictSame(deviceNames(), [...images.map(({ name }) => name), 'host'].sort())
  for (const { name } of images) await store.unmap(name)
  t.strictSame(deviceNames(), ['host'])
  await store.removeAll()
  await store.removeDisabled()
  t.strictSame(
    [readdirSync(DIRECTORY), readdirSync(METADATA).filter((f) => !f.endsWith('.lock'))],
    [[], []],
  )
  sh('umount /tmp/host')
  await host.unmap()
}
