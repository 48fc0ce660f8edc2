// A machine that boots a disk as a real one does, runs one step of a test, and stops.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const STEPS = fileURLToPath(new URL('steps.js', import.meta.url))

export interface Machine {
  /** The folder of Debian, whose kernel is booted. */
  tree: string
  /** The folder that the guest sees as /mnt/share. */
  share: string
  /** Where the console's log is kept. */
  log: string
}

export interface Boot {
  initramfs: string
  /** What root= is. */
  root: string
  disks: string[]
  /** The step of steps.ts, and its arguments. */
  step: string[]
}

export interface Booted {
  output: string
  console: string
  /** Seconds that the script of the boot files took, each time it ran. */
  added: number[]
  /** Seconds from the start of the kernel to that of the step. */
  total: number
}

/** Seconds: several times what an emulated boot takes. */
const TIMEOUT = 600

const share = (path: string, tag: string): string[] => [
  '-virtfs',
  `local,path=${path},mount_tag=${tag},security_model=none,multidevs=remap${tag === 'host' ? ',readonly=on' : ''}`,
]

/** Throws with the end of the console's log when the machine does not come as far as to run the step. */
export function boot(machine: Machine, { initramfs, root, disks, step }: Boot): Booted {
  const { tree, share: folder, log } = machine
  const words = [`/mnt/host${process.execPath}`, `/mnt/host${STEPS}`, ...step]
  const command = words.map((word) => `'${word}'`)
  writeFileSync(
    join(folder, 'step'),
    `read -r up _ </proc/uptime\necho "up $up"\nexec ${command.join(' ')}\n`,
  )
  for (const name of ['status', 'output']) rmSync(join(folder, name), { force: true })
  const append = `root=${root} rw console=ttyS0 panic=-1 mitigations=off systemd.show_status=1`
  spawnSync(
    'qemu-system-x86_64',
    [
      ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-m', '1G'],
      ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2'],
      ...['-kernel', join(tree, 'vmlinux'), '-initrd', initramfs, '-append', append],
      ...['-serial', `file:${log}`],
      ...disks.flatMap((disk) => ['-drive', `file=${disk},format=raw,if=virtio,cache=unsafe`]),
      ...share('/', 'host'),
      ...share(folder, 'share'),
    ],
    { stdio: ['ignore', 2, 2], timeout: TIMEOUT * 1000, killSignal: 'SIGKILL' },
  )
  const console = readFileSync(log, 'utf8')
  const status = join(folder, 'status')
  const output = existsSync(status) ? readFileSync(join(folder, 'output'), 'utf8') : ''
  if (!existsSync(status) || readFileSync(status, 'utf8') !== '0\n') {
    throw new Error(`${step.join(' ')} failed\n${output}\n${console.slice(-6000)}`)
  }
  const times = console.matchAll(/dmloop: boot devices from ([\d.]+) to ([\d.]+) s/g)
  return {
    output,
    console,
    added: [...times].map(([_, from, to]) => Number(to) - Number(from)),
    total: Number(/^up ([\d.]+)$/m.exec(output)?.[1]),
  }
}
