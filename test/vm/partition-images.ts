// Images with partition tables, and what kpartx and the loop driver find in them.
import { mkdirSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'
import type { Test } from 'tap'
import type { MappedDevice } from 'dmloop'
import { deviceNames, leftCookies, leftFiles, sh, UDEV } from './lab.js'

export const MIB = 1 << 20

export const settle = (): void => {
  if (UDEV) sh('udevadm settle')
}

mkdirSync('/run/dmloop', { recursive: true })

/** What of devices and mappings there is. */
export const left = (): unknown => [
  deviceNames(),
  leftFiles(),
  leftCookies(),
  sh('losetup -l --noheadings'),
]

/** A partition as number, start and size in sectors of 512 bytes. */
export type Row = [number: number, start: number, size: number]

/** Calls with a loop device of such sectors on a file. */
function onLoop<T>(file: string, sector: number, options: string, look: (loop: string) => T): T {
  const loop = sh(`losetup -f --show -b ${sector} ${options} ${file}`).trim()
  try {
    return look(loop)
  } finally {
    settle()
    sh(`losetup -d ${loop}; while losetup ${loop} 2>/dev/null; do sleep 0.1; done`)
  }
}

export const byDriver = (file: string, sector: number): Row[] =>
  onLoop(file, sector, '-P -r', (loop) =>
    sh(`cd /sys/block/${basename(loop)}; for part in loop*p*; do
          [ ! -e $part/partition ] || echo $(cat $part/partition $part/start $part/size)
        done`)
      .split('\n')
      .filter(Boolean)
      .map((line) => line.split(' ').map(Number) as Row)
      .sort(([a], [b]) => a - b),
  )

/** kpartx lists logical partitions relative to the extended one, whose name is that of a device to be. */
export const byKpartx = (file: string, sector: number): Row[] =>
  onLoop(file, sector, '-r', (loop) => {
    const lines = [...sh(`kpartx -l ${loop}`).matchAll(/^loop\d+p(\d+) : 0 (\d+) (\S+) (\d+)$/gm)]
    const extended = lines.find(([, , size]) => Number(size) === (2 * sector) / 512)
    return lines
      .map(([, number, size, on, start]): Row => {
        const base = on === loop ? 0 : Number(extended?.[4])
        return [Number(number), base + Number(start), Number(size)]
      })
      .sort(([a], [b]) => a - b)
  })

export const rowsOf = ({ partitions }: Pick<MappedDevice, 'partitions'>): Row[] =>
  partitions.map(({ number, start, size }) => [number, start / 512, size / 512])

/** Whether each partition's node is there, and reads what the image has at its place. */
export function compareBytes(t: Test, device: MappedDevice, file: string): void {
  const image = readFileSync(file)
  for (const { path, start, size } of device.partitions) {
    const bytes = readFileSync(path)
    t.ok(bytes.equals(image.subarray(start, start + size)), `${path} has its ${size} bytes`)
  }
}

export interface Table {
  /** MiB. */
  size?: number
  /** Bytes of a sector of the disk that the image was made for. */
  sector?: number
  /** What makes the table, on the device $DISK. */
  make: string
  /** What damages it, in the file $FILE. */
  damage?: string
  /** Whether the loop driver finds the same, and kpartx. */
  driver?: false
  kpartx?: false
  /** The numbers of the partitions that there are to be. */
  numbers: number[]
  /** What the problems say. */
  problems?: RegExp[]
}

export const sfdisk = (...lines: string[]): string =>
  `printf '%s\\n' ${lines.map((line) => `'${line}'`).join(' ')} | sfdisk -q --no-reread $DISK`

/** Writes an entry of the MBR over another. */
export const entry = (index: number, type: number, start: number, size: number): string => {
  const bytes = Buffer.alloc(16)
  bytes[4] = type
  bytes.writeUInt32LE(start, 8)
  bytes.writeUInt32LE(size, 12)
  const text = [...bytes].map((byte) => `\\${byte.toString(8).padStart(3, '0')}`).join('')
  return `printf '${text}' | dd of=$FILE bs=1 seek=${446 + 16 * index} conv=notrunc status=none`
}

export const upTo = (count: number, from = 1): number[] =>
  Array.from({ length: count }, (_, i) => from + i)

/** Makes an image on the host's filesystem, every block of it written. */
export function makeImage(
  file: string,
  { size = 8, sector = 512, make, damage = '' }: Table,
): void {
  sh(`rm -f ${file} /tmp/disk; head -c ${size * MIB} /dev/urandom >/tmp/disk
      dd if=/dev/zero of=/tmp/disk bs=64K count=1 conv=notrunc status=none`)
  onLoop('/tmp/disk', sector, '', (loop) => sh(`DISK=${loop}; ${make}; sync`))
  sh(
    `FILE=/tmp/disk; ${damage || ':'}; cp --sparse=never /tmp/disk ${file}; sync ${file}; rm /tmp/disk`,
  )
}
