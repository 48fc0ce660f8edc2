// npm run bench [-- NAME ...] [--smp]: measures in the guest kernel, with --smp in the one that has two
// processors, and keeps the figures in bench/results, with their plots and tables.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { RESULT } from './measure.js'
import { keepResult, type Result } from './results.js'

const BENCHES = ['plan', 'map', 'memory']
const path = (program: string): string => fileURLToPath(new URL(program, import.meta.url))

async function run(name: string, smp: boolean): Promise<number> {
  const guest = ['--disk=2800', '--memory=8G', ...(smp ? ['--smp=2'] : [])]
  const args = [path('../vm/cli.js'), ...guest, process.execPath, path(`${name}.js`)]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  const closed = once(child, 'close') as Promise<[number]>
  for await (const line of createInterface(child.stdout)) {
    if (!line.startsWith(RESULT)) {
      console.log(line)
      continue
    }
    const result = JSON.parse(line.slice(RESULT.length)) as Result
    keepResult(smp ? `${name}-smp` : name, result)
  }
  return (await closed)[0]
}

const { positionals: asked, values } = parseArgs({
  allowPositionals: true,
  options: { smp: { type: 'boolean', default: false } },
})
const unknown = asked.filter((name) => !BENCHES.includes(name))
if (unknown.length > 0) {
  console.error(`there is no bench ${unknown.join(', ')}: there are ${BENCHES.join(', ')}`)
  process.exit(2)
}
for (const name of asked.length > 0 ? asked : BENCHES) {
  process.exitCode ||= await run(name, values.smp)
}
await import('./docs.js')
