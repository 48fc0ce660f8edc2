// I/O through a mapping against the raw disk, a table made by hand, loop devices and the file itself.
//
//   io.js ram        both disks are ram disks: the processor is what limits them
//   io.js null_blk   disks that take their time, with processors to spare
import { readFileSync } from 'node:fs'
import { mapFile, planFile } from 'dmloop'
import { fragmentedFile, makeHost, sh, type Host } from '../test/vm/lab.js'
import { DISKS } from './disks.js'
import { compare, WORKLOADS } from './fio.js'
import { keep, report, spread } from './measure.js'
import type { Row } from './results.js'

const SIZE = 128 << 20
const FRAGMENTS = 10_000
/** /dev/ram0 */
const RAM_DISK = '1:0'

/** One extent, where the filesystem has so much room in one place. */
function wholeFile(path: string): void {
  sh(
    `fallocate -l ${SIZE} ${path}
     dd if=/dev/urandom of=${path} bs=1M count=${SIZE >> 20} conv=notrunc,fsync`,
  )
}

const scatteredFile = (path: string): void => fragmentedFile(path, SIZE, FRAGMENTS, 1)

const FILES = ['mapped', 'past', 'cached']

interface Device {
  name: string
  path: string
}

/**
 * All that is compared is there at the same time, so that each can run right after the other, which maps
 * that come and go in between would keep it from. A mapped file takes no writes but those of its device,
 * so the rest have files of their own, in as many pieces: the same seed makes them. The loop
 * device without direct I/O has one for itself as well: it leaves pages in the file's cache, and
 * whoever writes past that cache has to throw them out first. The table made by hand is of the very
 * blocks of the mapping.
 */
async function withDevices(
  folder: string,
  raw: string,
  measure: (devices: Device[], segments: number) => void,
): Promise<void> {
  const [mapped, past, cached] = FILES.map((name) => `${folder}/${name}`) as [
    string,
    string,
    string,
  ]
  const { segments } = await planFile(mapped)
  sh('dmsetup create table', segments.toTable())
  const direct = sh(`losetup --direct-io=on --show -f ${past}`).trim()
  const loop = sh(`losetup --show -f ${cached}`).trim()
  const device = await mapFile(mapped, { name: 'mapped' })
  measure(
    [
      { name: 'raw', path: raw },
      { name: 'mapFile', path: device.path },
      { name: 'dmsetup table', path: '/dev/mapper/table' },
      { name: 'loop', path: loop },
      { name: 'loop, direct I/O', path: direct },
      { name: 'file', path: past },
    ],
    segments.length,
  )
  await device.unmap()
  sh(`losetup -d ${loop} ${direct}; dmsetup remove --retry table`)
}

/** What dm-loop's author measured on an NVMe disk, as fractions of it: docs/performance.md. */
const THREAD: Record<string, Record<string, string>> = {
  'psync × 12': { mapFile: '0.85 to 0.94', loop: '0.56' },
  'libaio × 12, depth 16': { mapFile: '0.95 to 0.97', loop: '0.22' },
}

const rows = new Map<string, Row[]>(Object.keys(WORKLOADS).map((workload) => [workload, []]))

function measure(file: string, devices: readonly Device[]): void {
  for (const [workload, options] of Object.entries(WORKLOADS)) {
    const rounds = compare(devices, options)
    // Within a round only: the machine may be a different one in the next.
    const ratios = (name: string, to: string): Row[string] =>
      name === to || name === 'raw'
        ? ''
        : spread(rounds.map((round) => (round[name]?.speed ?? NaN) / (round[to]?.speed ?? NaN)))
    for (const { name } of devices) {
      const median = (of: 'speed' | 'idle'): number =>
        spread(rounds.map((round) => round[name]?.[of] ?? NaN)).median
      rows.get(workload)?.push({
        workload,
        file,
        device: name,
        'MiB/s': Number(median('speed').toFixed(1)),
        'device / raw': ratios(name, 'raw'),
        'device / table': ratios(name, 'dmsetup table'),
        'device / loop, direct I/O': ratios(name, 'loop, direct I/O'),
        'processors idle at least, %': Math.round(median('idle') * 100),
        'dm-loop’s thread: / raw': THREAD[workload]?.[name] ?? '',
      })
    }
    console.error(`${file}, ${workload}: done`)
  }
}

const disk = DISKS[process.argv[2] ?? '']
if (!disk) throw new Error(`io takes one of ${Object.keys(DISKS).join(', ')}`)
const { host: under, raw } = disk.make()
const number = readFileSync(`/sys/block/${under}/dev`, 'utf8').trim()
const sectors = readFileSync(`/sys/block/${under}/size`, 'utf8').trim()
// What was never written has no memory behind it, and would be read faster than can be.
sh(`dd if=/dev/urandom of=/dev/${raw} bs=1M count=${SIZE >> 20} oflag=direct`)
// Else what the loop device left in the cache would be written to the disk while others are measured.
sh('echo 0 >/proc/sys/vm/dirty_writeback_centisecs')
const title = `I/O on ${disk.title}`

/** A filesystem with the files: made on a ram disk, for what takes its time takes it for each write. */
function makeFiles(filesystem: string, makeFile: (path: string) => void): Host {
  const host = makeHost(filesystem, `0 ${sectors} linear ${RAM_DISK} 0`)
  for (const name of FILES) makeFile(`${host.path}/${name}`)
  if (number === RAM_DISK) return host
  host.remove()
  sh(`dd if=/dev/ram0 of=/dev/${under} bs=1M count=${Number(sectors) >> 11} oflag=direct`)
  sh(`dmsetup create ${host.name}`, `0 ${sectors} linear ${number} 0`)
  sh(`mount /dev/mapper/${host.name} ${host.path}`)
  return host
}

for (const makeFile of [wholeFile, scatteredFile]) {
  for (const filesystem of ['ext4', 'xfs']) {
    const host = makeFiles(filesystem, makeFile)
    await withDevices(host.path, `/dev/${raw}`, (devices, segments) => {
      measure(`${filesystem}, ${segments} segment${segments > 1 ? 's' : ''}`, devices)
    })
    host.remove()
    // What there is by then is kept, whatever happens to the rest.
    keep('io', title, [...rows.values()].flat())
  }
}
report('io', title, [...rows.values()].flat())
