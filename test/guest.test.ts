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
import { GUESTS, titleOf, UML, type Guest } from './guests.js'

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
