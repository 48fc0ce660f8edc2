// npm run bench [-- NAME ...] [--smp]: measures in the guest kernel, with --smp in the one that has two
// processors, or on this machine, and keeps the figures in bench/results, with their plots and tables.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { RESULT } from './measure.js'
import { keepResult, type Result } from './results.js'

/** The programs, and what they are called with. */
const BENCHES: Record<string, string[]> = {
  guest: ['guest'],
  plan: ['plan'],
  map: ['map'],
  memory: ['memory'],
  io: ['io', 'ram'],
  'io-null_blk': ['io', 'null_blk'],
  create: ['create'],
  'plan-here': ['plan'],
  'plan-here-xfs': ['plan', 'xfs'],
  'map-all': ['map-all'],
  partitions: ['partitions'],
  unmap: ['unmap'],
  verify: ['verify'],
  fence: ['fence'],
  loop: ['loop'],
  'loop-here': ['loop'],
}
/** Only when they are asked for: they take root, to mount a filesystem and to attach loop devices. */
const BY_NAME = ['plan-here', 'plan-here-xfs', 'loop-here']
const ON_THIS_MACHINE = ['create', ...BY_NAME]
/** User-Mode Linux has no null_blk. */
const SMP_ONLY = ['io-null_blk']
const path = (program: string): string => fileURLToPath(new URL(program, import.meta.url))

async function run(name: string, smp: boolean): Promise<number> {
  const guest = ['--disk=2800', '--memory=8G', ...(smp ? ['--smp=2'] : [])]
  const [program = '', ...args] = BENCHES[name] ?? []
  const command = [path(`${program}.js`), ...args]
  const inGuest = [path('../vm/cli.js'), ...guest, process.execPath, ...command]
  const child = spawn(process.execPath, ON_THIS_MACHINE.includes(name) ? command : inGuest, {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
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
const names = Object.keys(BENCHES).filter(
  (name) => !(values.smp ? ON_THIS_MACHINE : SMP_ONLY).includes(name),
)
const unknown = asked.filter((name) => !names.includes(name))
if (unknown.length > 0) {
  console.error(`there is no bench ${unknown.join(', ')}: there are ${names.join(', ')}`)
  process.exit(2)
}
for (const name of asked.length > 0 ? asked : names.filter((each) => !BY_NAME.includes(each)))
  process.exitCode ||= await run(name, values.smp)
await import('./docs.js')
