// npm run test:sanitize: the native half under AddressSanitizer on this machine, and under
// UndefinedBehaviorSanitizer in the guest with the real device-mapper (AddressSanitizer's shadow does
// not fit into User-Mode Linux's address space).
import { execFileSync, spawnSync } from 'node:child_process'
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

function run(command, args, options) {
  console.log(`# ${command} ${args.join(' ')}`)
  const { status } = spawnSync(command, args, { stdio: 'inherit', ...options })
  if (status !== 0) {
    console.error(`not clean: ${command} ${args.join(' ')}`)
    process.exit(1)
  }
}

/** A copy of the package with an addon of its own. */
function build(sanitizer) {
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
  run(process.execPath, ['native/build.mjs', `--sanitize=${sanitizer}`], { cwd: copy })
  return copy
}

const library = execFileSync('c++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim()
const address = build('address')
run(join(address, 'build/Release/native-check'), [])
for (const folder of ['out/test/unit', 'out/test/host/this-machine.test.js']) {
  const path = join(address, folder)
  const files = folder.endsWith('.js')
    ? [path]
    : readdirSync(path)
        .filter((name) => name.endsWith('.test.js') && name !== ENDED_WORKERS && name !== MEMORY)
        .map((name) => join(path, name))
  for (const file of files) {
    // Node keeps what it has allocated until the end: leaks are for native-check to find.
    const env = { ...process.env, LD_PRELOAD: library, ASAN_OPTIONS: 'detect_leaks=0' }
    run(process.execPath, [file], { cwd: address, env })
  }
}

const undefinedBehaviour = build('undefined')
run(join(undefinedBehaviour, 'build/Release/native-check'), [])
const cli = join(root, 'out/vm/cli.js')
for (const test of ['native', 'agreement']) {
  const guest = [cli, '--udev', '--disk=400', '--timeout=600']
  run(process.execPath, [...guest, process.execPath, `out/test/vm/${test}.js`], {
    cwd: undefinedBehaviour,
  })
}
console.log('clean')
