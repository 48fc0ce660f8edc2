// The disks that I/O is measured on: one for the filesystem, and one that stays raw.
import { mkdirSync, writeFileSync } from 'node:fs'
import { sh } from '../test/shell.js'

interface Disks {
  /** Names in /dev. */
  host: string
  raw: string
}

const MEBIBYTES = 800

/**
 * As long as a command takes on the disk, and as many as it takes at once: together they allow it fewer
 * commands in a second than two emulated processors can send, so that the disk is what is waited for.
 */
const LATENCY = 1_000_000
const AT_ONCE = 2

/** null_blk keeps what is written in memory, and a timer completes each command. */
function nullBlk(index: number): string {
  const folder = `/sys/kernel/config/nullb/nullb${index}`
  mkdirSync(folder)
  const settings = {
    size: MEBIBYTES,
    memory_backed: 1,
    irqmode: 2,
    completion_nsec: LATENCY,
    submit_queues: 1,
    hw_queue_depth: AT_ONCE,
    power: 1,
  }
  for (const [name, value] of Object.entries(settings)) {
    writeFileSync(`${folder}/${name}`, String(value))
  }
  return `nullb${index}`
}

export const DISKS: Record<string, { title: string; make: () => Disks }> = {
  ram: {
    title: 'a ram disk, where the processor is the limit',
    make: () => ({ host: 'ram0', raw: 'ram1' }),
  },
  null_blk: {
    title: `a disk that takes ${LATENCY / 1e6} ms for a command, and ${AT_ONCE} commands at once`,
    make() {
      sh(
        'modprobe null_blk nr_devices=0; mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config',
      )
      return { host: nullBlk(0), raw: nullBlk(1) }
    },
  },
}
