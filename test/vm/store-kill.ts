// node store-kill.js FILESYSTEM [all]: SIGKILL between any two system calls of an ImageStore that change something, every
// 24th of them, or all. There is the image from before or the new one, whole; the next call finishes, and a reboot maps
// what was complete.
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { ImageStore, type DmloopError } from 'dmloop'
import { killAt } from './kill-at.js'
import { randomFile, scaledStep, sh } from './lab.js'
import { HOST, METADATA, mount, reboot } from './store-host.js'

const [filesystem = 'ext4', all] = process.argv.slice(2)
const MIB = 1 << 20
const SIZE = 2 * MIB
const step = all === 'all' ? 1 : scaledStep(24)

sh(`mkfs.${filesystem} -q /dev/ram0`)
mkdirSync(HOST)
const source = '/tmp/source'
randomFile(source, SIZE)
const CONTENT = readFileSync(source)

await mount()
const store = await ImageStore.open(`${HOST}/images`, { metadata: METADATA })

const kill = (call: number, ...args: string[]): string =>
  killAt(call, 'store', `${HOST}/images`, METADATA, ...args)

/** Kills a call at one system call after the other, and looks at what is left. */
async function killed(
  t: Test,
  args: string[],
  before: () => Promise<unknown>,
  after: (said: string) => Promise<void>,
): Promise<void> {
  let call = 1
  for (; ; call += step) {
    await before()
    const said = kill(call, ...args)
    await after(said)
    await clear()
    if (said.endsWith('in all')) break
  }
  t.ok(call > 3, `${call - 1} calls`)
}

async function clear(): Promise<void> {
  for (const { name } of await store.list()) {
    if (await store.isMapped(name)) await store.unmap(name)
  }
  await store.removeDisabled()
  await store.removeAll()
  t.strictSame([readdirSync(`${HOST}/images`), readdirSync(METADATA)], [[], []], 'nothing is left')
}

/** The content of the image, through its device. */
async function content(): Promise<Buffer> {
  await using device = await store.map('a')
  return readFileSync(device.path)
}

const create = (): Promise<unknown> => store.create('a', { from: source })
const codeOf = (error: unknown): string => (error as DmloopError).code

await t.test('create', async (t) => {
  await killed(
    t,
    ['create', source],
    () => Promise.resolve(),
    async (said) => {
      const left = (await store.list()).length
      const outcome = await create().then(() => 'made', codeOf)
      t.equal(outcome, left === 0 ? 'made' : 'DMLOOP_IMAGE_EXISTS', said)
      t.ok((await content()).equals(CONTENT))
      t.strictSame(await store.validate('a'), { ok: true, problems: [] })
    },
  )
})

for (const mapped of [false, true]) {
  await t.test(`resize, ${mapped ? '' : 'not '}mapped`, async (t) => {
    let turn = 0
    await killed(
      t,
      ['resize', String(SIZE + MIB)],
      async () => {
        await create()
        if (mapped) await store.map('a')
      },
      async (said) => {
        const { size } = await store.get('a')
        t.ok(size === SIZE || size === SIZE + MIB, said)
        if (turn++ % 2 === 0) {
          reboot()
          t.strictSame((await store.mapAll()).problems, [], 'the image can be mapped')
          t.ok(readFileSync('/dev/mapper/a').subarray(0, SIZE).equals(CONTENT))
          await mount()
        }
        if (await store.isMapped('a')) await store.unmap('a')
        const now = await content()
        t.equal(now.length, size)
        t.ok(now.subarray(0, SIZE).equals(CONTENT))
        t.ok(now.subarray(SIZE).equals(Buffer.alloc(size - SIZE)))
        t.strictSame(await store.validate('a'), { ok: true, problems: [] })
        await store.resize('a', SIZE + MIB)
        t.ok((await content()).subarray(SIZE).equals(Buffer.alloc(MIB)))
      },
    )
  })
}

await t.test('delete', async (t) => {
  await killed(t, ['delete'], create, async (said) => {
    const left = (await store.list()).length
    if (left === 1) t.ok((await content()).equals(CONTENT), said)
    await store.delete('a').catch((error: unknown) => {
      t.equal(codeOf(error), 'DMLOOP_NO_SUCH_IMAGE', said)
    })
  })
})

for (const call of ['map', 'unmap']) {
  await t.test(call, async (t) => {
    const before = async (): Promise<void> => {
      await create()
      if (call === 'unmap') await store.map('a')
    }
    await killed(t, [call], before, async (said) => {
      if (await store.isMapped('a')) await store.unmap('a')
      t.ok((await content()).equals(CONTENT), said)
      t.strictSame(await store.validate('a'), { ok: true, problems: [] })
    })
  })
}

await t.test('mapAll after a reboot', async (t) => {
  const before = async (): Promise<void> => {
    await create()
    reboot()
  }
  await killed(t, ['mapAll'], before, async (said) => {
    t.match(await store.mapAll(), { mapped: [{ name: 'a' }], problems: [] }, said)
    t.ok(readFileSync('/dev/mapper/a').equals(CONTENT))
    await mount()
    t.strictSame(await store.validate('a'), { ok: true, problems: [] })
  })
})
reboot()
