// Runs the tests of test/vm in guest kernels. One that cannot boot is a failure, never a skip.
//
//   guest.test.js [--all | --kernel=VERSION ...] [TEST ...]
//
// With --all, those as well that everybody's run leaves out; with --kernel, all of them on Debian's kernels
// of those versions and on two processors instead of in User-Mode Linux; with TEST ..., those only.
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import t, { type Test } from 'tap'

interface Guest {
  /** The program in test/vm, and its arguments. */
  test: string
  args?: string[]
  /** Options of vm/cli.ts. */
  options: string[]
  /** The kernels that it is for, where it is not for every one. */
  on?: readonly string[]
}

const UML = 'User-Mode Linux'
/** Where f2fs pins a file that has blocks. What newer ones pin is in newer-kernel. */
const PINS_ANY_FILE = [UML, '6.1']

/** The kernel's default code page and character set are modules of their own. */
const VFAT = ['vfat', 'nls_cp437', 'nls_iso8859-1', 'nls_ascii']
const MATRIX_MODULES = [
  ...VFAT,
  ...['btrfs', 'f2fs', 'dm-delay', 'overlay', 'fuse', 'squashfs', 'erofs', '9p', '9pnet_fd'],
]

const GUESTS: Guest[] = [
  { test: 'nodes', options: ['--udev', '--disk=100'] },
  { test: 'bytes', args: ['ext4'], options: ['--disk=400', '--memory=3G'] },
  { test: 'bytes', args: ['xfs'], options: ['--disk=400', '--memory=3G'] },
  {
    test: 'bytes',
    args: ['f2fs'],
    options: ['--disk=400', '--memory=3G', '--modules=f2fs'],
    on: PINS_ANY_FILE,
  },
  {
    test: 'bytes',
    args: ['vfat'],
    options: ['--disk=400', '--memory=3G', `--modules=${VFAT.join(',')}`],
  },
  { test: 'event-loop', options: ['--disk=1200', '--memory=4G'] },
  { test: 'nodes', options: ['--disk=100'] },
  { test: 'guard', args: ['ext4'], options: ['--disk=400'] },
  { test: 'guard', args: ['xfs'], options: ['--disk=400'] },
  { test: 'guard', args: ['f2fs'], options: ['--disk=400', '--modules=f2fs'], on: PINS_ANY_FILE },
  ...['identity', 'volumes'].flatMap((test): Guest[] => [
    { test, args: ['ext4'], options: ['--disk=100'] },
    { test, args: ['xfs'], options: ['--disk=400'] },
    { test, args: ['f2fs'], options: ['--disk=200', '--modules=f2fs'], on: PINS_ANY_FILE },
  ]),
  { test: 'records', args: ['ext4'], options: ['--disk=100'] },
  { test: 'records', args: ['xfs'], options: ['--disk=400'] },
  { test: 'stale', args: ['ext4'], options: ['--disk=400'] },
  { test: 'stale', args: ['xfs'], options: ['--disk=400'] },
  { test: 'stale', args: ['f2fs'], options: ['--disk=400', '--modules=f2fs'], on: PINS_ANY_FILE },
  { test: 'kill', args: ['ext4'], options: ['--disk=100'] },
  { test: 'kill', args: ['xfs'], options: ['--disk=400', '--udev'] },
  { test: 'kill', args: ['ext4', 'loop'], options: ['--disk=100'] },
  { test: 'kill', args: ['ext4', 'partitions'], options: ['--disk=100'] },
  { test: 'kill', args: ['ext4', 'fence'], options: ['--disk=100'] },
  { test: 'kill', args: ['f2fs'], options: ['--disk=100', '--modules=f2fs'], on: PINS_ANY_FILE },
  ...['ext4', 'btrfs', 'vfat'].map((filesystem) => ({
    test: 'kill',
    args: [filesystem, 'swapfile'],
    options: ['--disk=200', `--modules=${['btrfs', ...VFAT].join(',')}`],
  })),
  ...['ext4', 'xfs', 'f2fs', 'vfat', 'btrfs'].map((filesystem) => ({
    test: 'swap-guard',
    args: [filesystem],
    options: ['--disk=400', `--modules=${['f2fs', 'btrfs', ...VFAT].join(',')}`],
  })),
  { test: 'btrfs', options: ['--disk=500', '--memory=3G', '--modules=btrfs'] },
  ...['ext4', 'xfs', 'f2fs', 'vfat'].map((filesystem) => ({
    test: 'create',
    args: [filesystem],
    options: ['--disk=400', '--memory=3G', `--modules=${['f2fs', ...VFAT].join(',')}`],
  })),
  { test: 'provision', args: ['ext4'], options: ['--disk=400', '--memory=3G'] },
  { test: 'provision', args: ['xfs'], options: ['--disk=400', '--memory=3G'] },
  {
    test: 'provision',
    args: ['f2fs'],
    options: ['--disk=400', '--memory=3G', '--modules=f2fs'],
    on: PINS_ANY_FILE,
  },
  { test: 'image-kill', args: ['ext4'], options: ['--disk=100'] },
  { test: 'store', args: ['ext4'], options: ['--disk=400', '--memory=2G'] },
  { test: 'store', args: ['xfs'], options: ['--udev', '--disk=400', '--memory=2G'] },
  {
    test: 'store',
    args: ['f2fs'],
    options: ['--disk=400', '--memory=2G', '--modules=f2fs'],
    on: PINS_ANY_FILE,
  },
  { test: 'store-kill', args: ['ext4'], options: ['--disk=100'] },
  { test: 'store-boot', options: ['--disk=100', '--memory=2G'] },
  { test: 'store-lp', options: ['--disk=100', '--memory=2G'] },
  { test: 'fence', args: ['ext4'], options: ['--disk=400', '--memory=2G'] },
  { test: 'fence', args: ['xfs'], options: ['--disk=400', '--memory=2G'] },
  { test: 'store-crowd', options: ['--disk=200', '--memory=3G'] },
  // One runs qemu itself.
  { test: 'examples', options: ['--disk=200', '--memory=3G', '--modules=dm-verity'], on: [UML] },
  {
    test: 'large-image',
    options: ['--disk=1', '--memory=2G', `--modules=${['zram', ...VFAT].join(',')}`],
  },
  { test: 'matrix', options: ['--disk=400', `--modules=${MATRIX_MODULES.join(',')}`] },
  { test: 'lp-metadata', options: ['--disk=100'] },
  { test: 'proof', options: ['--disk=100'] },
  { test: 'overlap', options: ['--disk=100'] },
  { test: 'nested', options: ['--disk=100'] },
  { test: 'filesystem-files', options: ['--disk=400', '--modules=f2fs'] },
  { test: 'agreement', options: ['--udev', '--disk=400'] },
  { test: 'loop', options: ['--udev', '--disk=400'] },
  { test: 'recovery', options: ['--udev', '--disk=100'] },
  { test: 'udev', options: ['--udev', '--disk=100'] },
  { test: 'wrap', options: ['--udev', '--disk=100'] },
  { test: 'partition-tables', options: ['--udev', '--disk=200'] },
  { test: 'partition-tables', options: ['--disk=200'] },
  { test: 'partitions', options: ['--udev', '--disk=200'] },
  { test: 'partitions', options: ['--disk=200'] },
  { test: 'crowd', options: ['--udev', '--disk=100'] },
  { test: 'namespaces', options: ['--disk=100'] },
  { test: 'stack', options: ['--disk=600', '--memory=4G'] },
  { test: 'refusals', options: ['--udev', '--disk=400', '--modules=dm-delay'] },
  {
    test: 'stuck',
    args: ['ext4'],
    options: [
      ...['--disk=100', '--udev'],
      `--modules=${['dm-delay', '9p', '9pnet_fd', ...VFAT].join(',')}`,
    ],
  },
  { test: 'stuck', args: ['xfs'], options: ['--disk=400', '--modules=dm-delay'] },
  { test: 'errors', options: ['--udev', '--disk=400'] },
  { test: 'command', options: ['--udev', '--disk=100'] },
  { test: 'command-images', options: ['--udev', '--disk=100'] },
  { test: 'look-only', options: ['--disk=100'] },
  { test: 'native', options: ['--udev', '--disk=100'] },
  { test: 'newer-kernel', options: ['--disk=400', '--modules=f2fs'], on: ['6.12'] },
]

const titleOf = ({ test, args = [], options }: Guest): string =>
  [test, ...args, ...options.filter((option) => option === '--udev')].join(' ')

/**
 * What everybody's run leaves out, to end within the time that a slow machine has: what each does, it does on
 * another filesystem as well, with another variant, or with udev.
 */
const LEFT_OUT = [
  ...['identity ext4', 'identity xfs', 'volumes ext4', 'volumes f2fs', 'records xfs', 'stale xfs'],
  ...['kill ext4 loop', 'kill ext4 partitions', 'kill btrfs swapfile', 'kill vfat swapfile'],
  ...['swap-guard xfs', 'swap-guard f2fs', 'swap-guard btrfs', 'create xfs', 'create f2fs'],
  ...['provision f2fs', 'store f2fs', 'fence xfs', 'partition-tables', 'partitions', 'stuck xfs'],
]
const titles = new Set(GUESTS.map(titleOf))
for (const title of LEFT_OUT) if (!titles.has(title)) throw new Error(`no guest is ${title}`)

/** Seconds: several times what the slowest takes. */
const TIMEOUT = 1500

const CLI = fileURLToPath(new URL('../vm/cli.js', import.meta.url))
const program = (test: string): string => fileURLToPath(new URL(`vm/${test}.js`, import.meta.url))

const { values, positionals } = parseArgs({
  options: {
    all: { type: 'boolean', default: false },
    kernel: { type: 'string', multiple: true, default: [] },
  },
  allowPositionals: true,
})

const guestsOn = (kernel: string): Guest[] =>
  GUESTS.filter(
    ({ test, on = [kernel] }) =>
      on.includes(kernel) && (positionals.length === 0 || positionals.includes(test)),
  )

const spawnGuest = (t: Test, guest: Guest, timeout: number, also: string[] = []) => {
  const { test, args = [], options } = guest
  return t.spawn(
    process.execPath,
    [CLI, `--timeout=${timeout}`, ...also, ...options, process.execPath, program(test), ...args],
    { buffered: true, timeout: 0 },
    titleOf(guest),
  )
}

/** Most of a test uses one processor at a time, and the machine usually has more. */
const JOBS = 2
/**
 * An emulated processor that waits for another one, which does not run, wastes its time: two guests of two at a time
 * on two processors take three times as long each.
 */
const SMP_JOBS = Math.max(1, Math.floor(availableParallelism() / 2))

t.setTimeout(0)
if (values.kernel.length === 0) {
  // Rounds find what is rare: everybody's run makes some, DMLOOP_SCALE=1 all.
  process.env.DMLOOP_SCALE ??= '0.2'
  t.jobs = JOBS
  const isWanted = (guest: Guest): boolean =>
    values.all || positionals.length > 0 || !LEFT_OUT.includes(titleOf(guest))
  await Promise.all(
    guestsOn(UML)
      .filter(isWanted)
      .map((guest) => spawnGuest(t, guest, TIMEOUT)),
  )
}
for (const kernel of values.kernel) {
  // That part of a test takes an emulated processor as long as all of it takes User-Mode Linux.
  process.env.DMLOOP_SCALE ??= '0.1'
  const also = ['--smp=2', `--kernel=${kernel}`]
  await t.test(`Linux ${kernel} on two processors`, { timeout: 0 }, async (t) => {
    t.jobs = SMP_JOBS
    await Promise.all(guestsOn(kernel).map((guest) => spawnGuest(t, guest, TIMEOUT * 4, also)))
  })
}
