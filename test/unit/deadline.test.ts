// Calls into the kernel that do not come back: a FIFO opens for reading when somebody writes to it.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants, createWriteStream, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { withDeadline } from '#lib/kernel/deadline.js'
import type { DmloopError } from '#lib/kernel/errors.js'
import { native, result } from '#lib/kernel/native.js'

const folder = mkdtempSync(join(tmpdir(), 'dmloop-deadline-'))
t.teardown(() => {
  rmSync(folder, { recursive: true })
})
const fifo = join(folder, 'fifo')
execFileSync('mkfifo', [fifo])

const descriptors = (): number => readdirSync('/proc/self/fd').length
const openFifo = (allowance = 0): Promise<number> =>
  result(native.open(fifo, constants.O_RDONLY), fifo, allowance)
const close = (fd: number): Promise<void> => result(native.close(fd))

/** Has every call that waits for the FIFO come back. */
async function release(): Promise<void> {
  const writer = createWriteStream(fifo)
  await once(writer, 'open')
  writer.destroy()
  await once(writer, 'close')
}

/** What a promise rejects with, and after how many milliseconds. */
async function rejection(promise: Promise<unknown>): Promise<{ error: unknown; after: number }> {
  const start = performance.now()
  const error = await promise.then(
    () => undefined,
    (error: unknown) => error,
  )
  return { error, after: performance.now() - start }
}

/** Waits for something that happens in the background. */
async function eventually(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 200 && !holds(); i++) await sleep(10)
}

await t.test('a stuck call rejects in time, and what it comes to is taken back', async (t) => {
  const before = descriptors()
  const stopped: unknown[] = []
  const [COUNT, RUN_OUT] = [12, { timeout: 600, signal: undefined }]
  const calls = Array.from({ length: COUNT }, () =>
    rejection(
      withDeadline(
        RUN_OUT,
        async (signal) => {
          const fd = await openFifo()
          stopped.push(signal.reason)
          return fd
        },
        close,
      ),
    ),
  )
  await sleep(100)
  const start = performance.now()
  await readFile('/proc/self/stat')
  const took = performance.now() - start
  t.ok(took < 200, `another file is read in ${took.toFixed(0)} ms, with ${COUNT} calls stuck`)
  for (const { error, after } of await Promise.all(calls)) {
    t.match(error, { code: 'DMLOOP_TIMEOUT', file: fifo })
    t.match((error as Error).message, /open did not return for 600 ms/)
    t.ok(after > 550 && after < 1500, `after ${after.toFixed(0)} ms`)
  }
  t.strictSame(stopped, [])
  await release()
  await eventually(() => stopped.length === COUNT && descriptors() === before)
  t.equal(descriptors(), before, 'all that was opened is closed')
  t.match(stopped, Array(COUNT).fill({ code: 'DMLOOP_TIMEOUT' }), 'the walks were told to stop')
})

await t.test('a stuck call does not hold an abort up', async (t) => {
  const [controller, reason] = [new AbortController(), new Error('no more')]
  setTimeout(() => controller.abort(reason), 100)
  const patience = { timeout: 60_000, signal: controller.signal }
  const { error, after } = await rejection(withDeadline(patience, () => openFifo(), close))
  t.equal(error, reason)
  t.ok(after > 500 && after < 1500, `after ${after.toFixed(0)} ms`)
  await release()
})

await t.test('an abort that is not held up waits for the walk', async (t) => {
  const done: string[] = []
  const patience = { timeout: 60_000, signal: AbortSignal.timeout(20) }
  const walk = async (signal: AbortSignal): Promise<void> => {
    for (let i = 0; i < 100; i++) {
      await result(native.readFirst(['/proc/self/stat']))
      await sleep(10)
    }
    done.push('undone')
    signal.throwIfAborted()
  }
  const { error, after } = await rejection(withDeadline(patience, walk))
  t.match(error, { name: 'TimeoutError' })
  t.strictSame(done, ['undone'], `after ${after.toFixed(0)} ms`)
})

await t.test('a call that may take long does', async (t) => {
  const patience = { timeout: 0, signal: undefined }
  const opened = withDeadline(patience, () => openFifo(60_000))
  await sleep(1000)
  await release()
  await close(await opened)
  t.pass('and comes back')
})

await t.test('the kernel is not to blame for a busy event loop', async (t) => {
  const patience = { timeout: 0, signal: undefined }
  const opened = withDeadline(patience, () => openFifo())
  await sleep(100)
  for (const end = performance.now() + 1500; performance.now() < end;);
  await sleep(20)
  await release()
  await close(await opened)
  t.pass('nor for a process that was stopped')
})

await t.test('the stack leads to the caller', async (t) => {
  async function theCaller(walk: () => Promise<unknown>): Promise<unknown> {
    return await withDeadline({ timeout: 0, signal: undefined }, walk)
  }
  const own = await rejection(theCaller(() => result(native.open('/nothing', 0))))
  t.match((own.error as DmloopError).stack, /theCaller/)
  const late = await rejection(theCaller(() => openFifo().then(close)))
  t.match((late.error as DmloopError).stack, /theCaller/)
  await release()
})

await t.test('a pending call keeps the process, but not from its exit', async (t) => {
  const library = new URL('../../../dist/kernel/native.js', import.meta.url).href
  const run = async (after: string): Promise<{ status: unknown; after: number }> => {
    const script = `import { native } from '${library}'
      native.open('${fifo}', 0).then(({ value }) => process.exit(value > 0 ? 7 : 8)); ${after}`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script])
    const ready = once(child, 'spawn')
    await ready
    const start = performance.now()
    const [status] = (await once(child, 'exit')) as unknown[]
    return { status, after: performance.now() - start }
  }
  const exits = await run('setTimeout(() => process.exit(3), 300)')
  t.match(exits, { status: 3 }, `process.exit() took ${exits.after.toFixed(0)} ms`)
  setTimeout(() => void release(), 2000)
  t.match(await run(''), { status: 7 }, 'without, it goes on until the call is back')
  const idle = `import '${library}'`
  t.doesNotThrow(() => {
    execFileSync(process.execPath, ['--input-type=module', '-e', idle], { timeout: 20_000 })
  }, 'an idle addon keeps nothing')
})
