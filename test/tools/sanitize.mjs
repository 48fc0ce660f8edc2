// npm run test:sanitize: the native half under AddressSanitizer on this machine, and under
// UndefinedBehaviorSanitizer in the guest with the real device-mapper (AddressSanitizer's shadow does
// not fit into User-Mode Linux's address space).
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * Ends worker threads in the middle of calls: under AddressSanitizer's allocator Node's own
 * FunctionCallbackWrapper then reads a callback that has been freed. It runs with the plain addon only.
 */
const ENDED_WORKERS = 'worker.test.js'
/** Measures memory, and has nothing native. */
const MEMORY = 'content.test.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

async function run(command, args, options) {
  console.log(`# ${command} ${args.join(' ')}`)
  const [status] = await once(spawn(command, args, { stdio: 'inherit', ...options }), 'close')
  if (status !== 0) {
    console.error(`not clean: ${command} ${args.join(' ')}`)
    process.exit(1)
  }
}

/** A copy of the package with an addon of its own. */
async function build(sanitizer) {
  const copy = join(root, 'out', `sanitize-${sanitizer}`)
  rmSync(copy, { recursive: true, force: true })
  mkdirSync(join(copy, 'out'), { recursive: true })
  for (const part of [
    'package.json',
    'tsconfig.json',
    'binding.gyp',
    'native',
    'dist',
    'test',
    'vm',
    'bench',
    'out/test',
  ]) {
    cpSync(join(root, part), join(copy, part), { recursive: true })
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  await run(process.execPath, ['native/build.mjs', `--sanitize=${sanitizer}`], { cwd: copy })
  return copy
}

async function testAddresses(copy) {
  const library = execFileSync('c++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim()
  await run(join(copy, 'build/Release/native-check'), [])
  for (const folder of ['out/test/unit', 'out/test/host/this-machine.test.js']) {
    const path = join(copy, folder)
    const files = folder.endsWith('.js')
      ? [path]
      : readdirSync(path)
          .filter((name) => name.endsWith('.test.js') && name !== ENDED_WORKERS && name !== MEMORY)
          .map((name) => join(path, name))
    for (const file of files) {
      // Node keeps what it has allocated until the end: leaks are for native-check to find.
      const env = { ...process.env, LD_PRELOAD: library, ASAN_OPTIONS: 'detect_leaks=0' }
      await run(process.execPath, [file], { cwd: copy, env })
    }
  }
}

async function testBehaviour(copy) {
  await run(join(copy, 'build/Release/native-check'), [])
  const cli = join(root, 'out/vm/cli.js')
  for (const test of ['native', 'agreement']) {
    const guest = [cli, '--udev', '--disk=400', '--timeout=600']
    const command = [...guest, process.execPath, `out/test/vm/${test}.js`]
    await run(process.execPath, command, { cwd: copy })
  }
}

// A compiler takes all processors, a test one.
const address = await build('address')
const undefinedBehaviour = await build('undefined')
await Promise.all([testAddresses(address), testBehaviour(undefinedBehaviour)])
console.log('clean')
