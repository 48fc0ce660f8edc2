// Native calls that share a thread.
import { execFileSync } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { constants, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { eachInBatches, inBatches, withoutBatches } from '#lib/kernel/batch.js'
import { withDeadline } from '#lib/kernel/deadline.js'
import { native, result } from '#lib/kernel/native.js'
import { opened, openedAgain } from '../open-files.js'

const folder = mkdtempSync(join(tmpdir(), 'dmloop-batch-'))
t.teardown(() => {
  rmSync(folder, { recursive: true })
})
const [file, fifo] = [join(folder, 'file'), join(folder, 'fifo')]
writeFileSync(file, 'a'.repeat(5000))
execFileSync('mkfifo', [fifo])

const text = (path = file): Promise<string | undefined> => result(native.readFirst([path]), path)
/** Waits until somebody writes to it, and opens it. */
const openFifo = (): Promise<number> => result(native.open(fifo, constants.O_RDONLY), fifo)
const close = (fd: number): Promise<void> => result(native.close(fd))

/** The threads that native calls have. */
const threads = (): number =>
  readdirSync('/proc/self/task').filter(
    (task) => readFileSync(`/proc/self/task/${task}/comm`, 'utf8') === 'dmloop\n',
  ).length

/** So many files that are not there take longer than it takes to make fifty calls. */
const slow = (): Promise<string | undefined> =>
  result(native.readFirst([...Array.from({ length: 2000 }, () => '/nonexistent'), file]))

await t.test('calls of one turn share a thread', async (t) => {
  const before = threads()
  const operation = async (index: number): Promise<string> => {
    if (index === 7) await t.rejects(text('/nonexistent/'.repeat(500)), { code: 'ENAMETOOLONG' })
    await text()
    return `${index}: ${((await slow()) ?? '').length}`
  }
  const all = await inBatches(() => Promise.all(Array.from({ length: 50 }, (_, i) => operation(i))))
  const expected = Array.from({ length: 50 }, (_, i) => `${i}: 5000`)
  t.strictSame(all, expected, 'each has its own result')
  // The next batch may come before the thread of the last one is idle again.
  t.ok(threads() <= Math.max(before, 2), `${threads()} threads`)
  await Promise.all(Array.from({ length: 20 }, slow))
  t.ok(threads() > 2, 'without batches each has one')
})

await t.test('an operation for each of many things', async (t) => {
  let running = 0
  let most = 0
  const numbers = Array.from({ length: 50 }, (_, index) => index)
  const done = await eachInBatches(numbers, async (number) => {
    most = Math.max(most, ++running)
    const { length } = (await text()) ?? ''
    running--
    return number * length
  })
  t.strictSame(
    done,
    numbers.map((number) => number * 5000),
    'the results are in their order',
  )
  t.equal(most, 16, 'several at a time')
  t.strictSame(await eachInBatches([], text), [])
})

await t.test('one of many that fails', async (t) => {
  const begun: number[] = []
  const ended: number[] = []
  const failing = eachInBatches(
    Array.from({ length: 50 }, (_, index) => index),
    async (number) => {
      begun.push(number)
      await text(number === 3 ? '/nonexistent/'.repeat(500) : file)
      await slow()
      ended.push(number)
    },
  )
  await t.rejects(failing, { code: 'ENAMETOOLONG' })
  t.equal(begun.length, 16, 'no more are begun')
  t.equal(ended.length, 15, 'and it waits for those that are under way')
})

await t.test('a stuck call keeps its batch, and nobody else', async (t) => {
  const seen: string[] = []
  const noting = async (what: string, call: Promise<unknown>): Promise<void> => {
    await call
    seen.push(what)
  }
  const done = inBatches(() =>
    Promise.all([
      openFifo().then(close),
      noting('same', text()),
      noting(
        'part',
        withoutBatches(() => text()),
      ),
    ]),
  )
  await noting('other', text())
  await sleep(100)
  t.strictSame(seen.sort(), ['other', 'part'])
  writeFileSync(fifo, '')
  await done
  t.strictSame(seen.sort(), ['other', 'part', 'same'])
})

await t.test('a deadline holds for all calls of a batch', async (t) => {
  const limit = { timeout: 300, signal: undefined }
  const before = opened().sort()
  const undone = new EventEmitter()
  const undo = async (fd: number): Promise<void> => {
    await close(fd)
    undone.emit('done')
  }
  const [stuck, behind] = await inBatches(() =>
    Promise.allSettled([withDeadline(limit, openFifo, undo), withDeadline(limit, () => text())]),
  )
  t.match(stuck, { reason: { code: 'DMLOOP_TIMEOUT', file: fifo, message: /: open did not/ } })
  t.match(behind, { reason: { code: 'DMLOOP_TIMEOUT', file } })
  const done = once(undone, 'done')
  writeFileSync(fifo, '')
  await done
  t.same((await openedAgain(before)).sort(), before, 'what returned late is closed')
})

await t.test('a worker ends with calls that have not started', async (t) => {
  const library = (name: string): string =>
    JSON.stringify(new URL(`../../../dist/kernel/${name}.js`, import.meta.url).href)
  const before = opened().sort()
  for (let round = 0; round < 5; round++) {
    const worker = new Worker(
      `const { parentPort } = require('node:worker_threads')
      Promise.all([import(${library('native')}), import(${library('batch')})]).then(([{ native }, { inBatches }]) => {
        inBatches(() => Promise.all(Array.from({ length: 9 }, () => native.open(${JSON.stringify(file)}, 0))))
        parentPort.postMessage('ready')
        ${round % 2 === 0 ? 'for (;;) {}' : 'setInterval(() => {}, 1000)'}
      })`,
      { eval: true },
    )
    await new Promise((resolve) => worker.once('message', resolve))
    await worker.terminate()
  }
  t.same((await openedAgain(before)).sort(), before, 'and leaves nothing open')
})

await t.test('reading', async (t) => {
  const fd = await result(native.open(file, constants.O_RDONLY), file)
  const read = (offset: number): Promise<Buffer> => result(native.read(fd, 4096, offset))
  t.equal((await read(0)).toString(), 'a'.repeat(4096))
  t.equal((await read(4096)).toString(), 'a'.repeat(5000 - 4096), 'less at the end')
  t.equal((await read(8192)).length, 0, 'nothing behind it')
  await close(fd)
  await t.rejects(read(0), { code: 'EBADF', syscall: 'pread' })
})
