// npm run test:mutations [-- WORD ...]: takes each safety step away, in a copy of lib/, and runs the guest test
// that is meant for it. A test that stays green does not show the step: then this fails. With WORDs, only the
// steps that have one of them. Not part of `npm test`: it takes about half an hour.
import { spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { GUESTS, titleOf } from '../../out/test/guests.js'
import { STEPS } from './safety-steps.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = join(root, 'out', 'mutations')

/** A copy of the package in which a step is missing. */
function mutate({ file, from, to }, copy) {
  rmSync(copy, { recursive: true, force: true })
  mkdirSync(join(copy, 'build'), { recursive: true })
  for (const part of ['package.json', 'tsconfig.json', 'lib', 'dist', 'out/test', 'out/examples']) {
    cpSync(join(root, part), join(copy, part), { recursive: true })
  }
  for (const part of ['node_modules', 'build/Release', 'test', 'README.md', 'docs']) {
    symlinkSync(join(root, part), join(copy, part))
  }
  const path = join(copy, 'lib', `${file}.ts`)
  const text = readFileSync(path, 'utf8')
  if (text.split(from).length !== 2) throw new Error(`lib/${file}.ts has not once: ${from}`)
  writeFileSync(
    path,
    text.replace(from, () => to),
  )
  // What is unused now is no error here: the compiler writes its output all the same.
  const tsc = join(root, 'node_modules/.bin/tsc')
  spawnSync(tsc, ['-p', copy, '--incremental', 'false'], { stdio: 'ignore' })
  const output = (where) => readFileSync(join(where, 'dist', `${file}.js`), 'utf8')
  if (output(copy) === output(root)) throw new Error(`lib/${file}.ts compiles to the same`)
}

const guestOf = ({ guest }) => GUESTS.find((each) => titleOf(each) === guest)

function runGuest(step, copy) {
  const { test, args = [], options } = guestOf(step)
  const cli = join(root, 'out/vm/cli.js')
  const program = join(copy, 'out/test/vm', `${test}.js`)
  const command = [
    cli,
    '--timeout=600',
    ...options,
    process.execPath,
    program,
    ...(step.args ?? args),
  ]
  return new Promise((resolve) => {
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const note = (data) => (output += data.toString())
    child.stdout.on('data', note)
    child.stderr.on('data', note)
    child.once('close', (status) => resolve({ status, output }))
  })
}

/** What of a run is red: the first failures, or how else it ended. */
function redness({ status, output }) {
  const failed = [...output.matchAll(/^not ok \d+ - (.*?)(?: # .*)?$/gm)].map(([, name]) => name)
  if (failed.length > 0) return failed.slice(0, 2).join('; ')
  return status === 0 ? undefined : `ended with ${status}`
}

const words = process.argv.slice(2)
const steps = STEPS.filter(
  ({ step, file }) =>
    words.length === 0 || words.some((word) => step.includes(word) || file === word),
)
const outcomes = new Map()
const waiting = [...steps.entries()]
async function work() {
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    const [index, step] = next
    const copy = join(folder, String(index))
    mutate(step, copy)
    const red = redness(await runGuest(step, copy))
    outcomes.set(index, red)
    console.log(`# ${red === undefined ? 'STAYS GREEN' : 'red'}: ${step.step}`)
    rmSync(copy, { recursive: true, force: true })
  }
}
// A guest has one processor, and the machine usually two.
await Promise.all([work(), work()])

console.log('\n| step that was taken away | in | test | red |\n| --- | --- | --- | --- |')
for (const [index, { step, file, guest }] of steps.entries()) {
  console.log(`| ${step} | lib/${file}.ts | ${guest} | ${outcomes.get(index) ?? '**no**'} |`)
}
const green = [...outcomes.values()].filter((red) => red === undefined).length
console.log(`\n${steps.length - green} passed, ${green} failed`)
process.exitCode = green > 0 ? 1 : 0
