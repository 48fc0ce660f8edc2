// A worker thread that is ended in the middle of native calls must not take the process with it, nor
// leave what it has opened behind.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { native, result } from '#lib/kernel/native.js'
import { opened, openedAgain } from '../open-files.js'

const library = new URL('../../../dist/kernel/native.js', import.meta.url).href
const folder = mkdtempSync(join(tmpdir(), 'dmloop-worker-'))
t.teardown(() => {
  rmSync(folder, { recursive: true })
})
const [record, file] = [join(folder, 'record'), fileURLToPath(import.meta.url)]

/** Makes calls for ever; one lock is held, and files are opened all the time. */
const script = `
  const { parentPort } = require('node:worker_threads')
  import('${library}').then(async ({ native }) => {
    await native.lockRecord(${JSON.stringify(record)})
    parentPort.postMessage('ready')
    const open = () => native.openFile(${JSON.stringify(file)}, false)
    for (;;) {
      const opened = await Promise.all([open(), open(), native.inspect(0)])
      for (const { value } of opened.slice(0, 2)) await native.close(value.fd)
    }
  })`

await t.test('ten workers come and go', async (t) => {
  const before = opened()
  for (let round = 0; round < 10; round++) {
    const worker = new Worker(script, { eval: true })
    await new Promise((resolve) => worker.once('message', resolve))
    await new Promise((resolve) => setTimeout(resolve, round))
    await worker.terminate()
    const { fd } = await result(native.lockRecord(record), record)
    await result(native.close(fd))
  }
  t.same((await openedAgain(before)).sort(), before.sort(), 'with all their descriptors and locks')
})

// One that is ended while the kernel keeps a call: a FIFO opens for reading when somebody writes to it.
const fifo = join(folder, 'fifo')
execFileSync('mkfifo', [fifo])
const stuck = `
  const { parentPort } = require('node:worker_threads')
  import('${library}').then(async ({ native }) => {
    const { value } = await native.lockRecord(${JSON.stringify(record)})
    native.open(${JSON.stringify(fifo)}, 0)
    parentPort.postMessage('ready')
    setInterval(() => {}, 1000)
  })`
await t.test('a worker ends with a stuck call', async (t) => {
  const worker = new Worker(stuck, { eval: true })
  await new Promise((resolve) => worker.once('message', resolve))
  const start = performance.now()
  await worker.terminate()
  const took = performance.now() - start
  t.ok(took < 1000, `it ends in ${took.toFixed(0)} ms`)
  t.notOk(opened().includes(record), 'what it held is closed')
  writeFileSync(fifo, '')
  for (let i = 0; i < 100 && opened().includes(fifo); i++) {
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  t.notOk(opened().includes(fifo), 'so is what the call has opened too late')
})
