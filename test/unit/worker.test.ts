// A worker thread that is ended in the middle of native calls must not take the process with it.
import { Worker } from 'node:worker_threads'
import t from 'tap'

const library = new URL('../../../dist/native.js', import.meta.url).href
const script = `
  const { parentPort } = require('node:worker_threads')
  import('${library}').then(async ({ native }) => {
    parentPort.postMessage('ready')
    for (;;) await Promise.all([native.inspect(0), native.inspect(0), native.inspect(0)])
  })`

for (let round = 0; round < 10; round++) {
  const worker = new Worker(script, { eval: true })
  await new Promise((resolve) => worker.once('message', resolve))
  await new Promise((resolve) => setTimeout(resolve, round))
  await worker.terminate()
}
t.pass('ten workers came and went')
