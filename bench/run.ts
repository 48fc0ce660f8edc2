// npm run bench [-- NAME]: measures in the guest kernel, and keeps the figures in bench/results.
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { createInterface } from 'node:readline'
import { RESULT } from './measure.js'

const BENCHES = ['plan', 'map', 'memory']
const RESULTS = fileURLToPath(new URL('../../bench/results', import.meta.url))
const CLI = fileURLToPath(new URL('../vm/cli.js', import.meta.url))

async function bench(name: string): Promise<number> {
  const program = fileURLToPath(new URL(`${name}.js`, import.meta.url))
  const args = [CLI, '--disk=2800', '--memory=8G', process.execPath, program]
  const guest = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  const closed = once(guest, 'close') as Promise<[number]>
  for await (const line of createInterface(guest.stdout)) {
    if (!line.startsWith(RESULT)) {
      console.log(line)
      continue
    }
    mkdirSync(RESULTS, { recursive: true })
    const kept: unknown = JSON.parse(line.slice(RESULT.length))
    writeFileSync(`${RESULTS}/${name}.json`, `${JSON.stringify(kept, undefined, 2)}\n`)
  }
  return (await closed)[0]
}

const asked = process.argv.slice(2)
const unknown = asked.filter((name) => !BENCHES.includes(name))
if (unknown.length > 0) {
  console.error(`there is no bench ${unknown.join(', ')}: there are ${BENCHES.join(', ')}`)
  process.exit(2)
}
for (const name of asked.length > 0 ? asked : BENCHES) process.exitCode ||= await bench(name)
