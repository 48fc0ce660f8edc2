// npm run vm -- [OPTION ...] COMMAND [ARG ...]
import { parseArgs } from 'node:util'
import { runInGuest } from './guest.js'
import { GUEST_DEFAULTS } from './kernel.js'

const USAGE = `Runs a command as root in a throwaway kernel that has device-mapper.

  npm run vm -- [OPTION ...] COMMAND [ARG ...]

  --smp=N           Debian's kernel with N processors, emulated by qemu (User-Mode Linux, with one)
  --kernel=VERSION  Debian's kernel of that version, as 6.12 (${GUEST_DEFAULTS.kernel}), with --smp=1 unless told
  --memory=SIZE     the guest's memory (${GUEST_DEFAULTS.memory})
  --disk=MIB        the size of each of /dev/ram0 and /dev/ram1 (${GUEST_DEFAULTS.disk})
  --udev            run systemd-udevd with the distribution's rules
  --modules=A,B     load these kernel modules too
  --timeout=SECONDS stop the guest after that long (never)

The command runs in this directory. The host's files are visible read-only, /tmp and /run are
writable and vanish with the guest. Its exit status is the command's.`

function fail(message: string): never {
  console.error(`${message}\n\n${USAGE}`)
  process.exit(2)
}

function wholeNumber(text: string, option: string): number {
  if (!/^\d+$/.test(text)) fail(`--${option} takes a whole number, not '${text}'`)
  return Number(text)
}

const argv = process.argv.slice(2)
// Everything from the first word that is not an option on is the command's, options included.
const first = argv.findIndex((word) => !word.startsWith('--') || word === '--')
const split = first === -1 ? argv.length : first
const command = argv.slice(argv[split] === '--' ? split + 1 : split)

let options
try {
  options = parseArgs({
    args: argv.slice(0, split),
    options: {
      smp: { type: 'string' },
      kernel: { type: 'string' },
      memory: { type: 'string', default: GUEST_DEFAULTS.memory },
      disk: { type: 'string', default: String(GUEST_DEFAULTS.disk) },
      udev: { type: 'boolean', default: false },
      modules: { type: 'string', default: '' },
      timeout: { type: 'string', default: '0' },
      help: { type: 'boolean', default: false },
    },
  }).values
} catch (error) {
  fail((error as Error).message)
}
if (options.help) {
  console.log(USAGE)
  process.exit(0)
}
if (command.length === 0) fail('no command was given')
if (options.kernel !== undefined && !/^\d+\.\d+$/.test(options.kernel)) {
  fail(`--kernel takes a version such as 6.12, not '${options.kernel}'`)
}
const smp =
  options.smp === undefined ? Number(options.kernel !== undefined) : wholeNumber(options.smp, 'smp')
if (options.kernel !== undefined && smp === 0) {
  fail('--kernel names a kernel for qemu, and --smp=0 is User-Mode Linux')
}

try {
  process.exitCode = await runInGuest(command, {
    ...GUEST_DEFAULTS,
    smp,
    kernel: options.kernel ?? GUEST_DEFAULTS.kernel,
    memory: options.memory,
    disk: wholeNumber(options.disk, 'disk'),
    udev: options.udev,
    modules: options.modules.split(',').filter((name) => name !== ''),
    timeout: wholeNumber(options.timeout, 'timeout'),
  })
} catch (error) {
  console.error(`vm: ${(error as Error).message}`)
  process.exitCode = 70
}
