// A worker thread that is ended in the middle of native calls must not take the process with it, nor
// leave what it has opened behind.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { native, result } from '#lib/native.js'

const library = new URL('../../../dist/native.js', import.meta.url).href
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
    const open = () => native.openFile(${JSON.stringify(file)})
    for (;;) {
      const opened = await Promise.all([open(), open(), native.inspect(0)])
      for (const { value } of opened.slice(0, 2)) await native.close(value.fd)
    }
  })`

const descriptors = (): number => readdirSync('/proc/self/fd').length
const before = descriptors()
for (let round = 0; round < 10; round++) {
  const worker = new Worker(script, { eval: true })
  await new Promise((resolve) => worker.once('message', resolve))
  await new Promise((resolve) => setTimeout(resolve, round))
  await worker.terminate()
  const { fd } = await result(native.lockRecord(record), record)
  await result(native.close(fd))
}
t.equal(descriptors(), before, 'ten workers came and went, with all their descriptors and locks')
