// What identity, volumes and records share: a volume of its own with the filesystem that the program's argument
// names, files of a user's on it, and what must be true once such a file has been given back.
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { mapFile, type MappedDevice, type MapOptions } from 'dmloop'
import { deviceNames, leftFiles, makeHost, oneSegment, sh } from './lab.js'

export const [filesystem = 'ext4'] = process.argv.slice(2)
export const host = makeHost(filesystem, oneSegment(), { name: 'host' })
export const disk = '/dev/mapper/host'

export const PEER = fileURLToPath(new URL('peer.js', import.meta.url))
export const BLOCK = 4096
export const SIZE = 1 << 20
/** Without a guard, a file on f2fs must be root's, and pinned, already. */
export const GUARDS =
  filesystem === 'f2fs' ? (['immutable'] as const) : (['immutable', 'none'] as const)

/** A directory of a user's, with a file that everybody can read, full of As. */
export function userFile(name: string): { folder: string; file: string; before: string } {
  const folder = `${host.path}/${name}`
  const file = `${folder}/disk.img`
  mkdirSync(folder)
  writeFileSync(file, Buffer.alloc(SIZE, 'A'), { flush: true })
  sh(`chmod 644 ${file}; chown -R 1000 ${folder}`)
  return { folder, file, before: attributes(file) }
}

/** Everything of a file but its content. */
export const attributes = (file: string): string =>
  sh(`stat -c '%u %g %a %s %h' ${file}; lsattr ${file}; getfattr -d -m - ${file}`)
    .replace(/^# .*$/gm, '')
    .replaceAll(file, '')

/** Has the file cached, and writes a block of Bs through the device. */
export function write(device: MappedDevice, file: string): void {
  readFileSync(file)
  const out = openSync(device.path, 'r+')
  writeSync(out, Buffer.alloc(BLOCK, 'B'), 0, BLOCK, 0)
  fsyncSync(out)
  closeSync(out)
}

const AS_WRITTEN = Buffer.concat([Buffer.alloc(BLOCK, 'B'), Buffer.alloc(SIZE - BLOCK, 'A')])
/** Past the page cache. */
function readDirect(file: string): Buffer {
  sh(`dd if=${file} bs=1M iflag=direct of=/tmp/direct status=none`)
  return readFileSync('/tmp/direct')
}

/** That a file is its owner's again: attributes, bytes, and bytes on the disk after a write of one. */
export function givenBack(t: Test, file: string, before: string): void {
  t.equal(attributes(file), before, 'owner, mode, flags and extended attributes are as they were')
  t.ok(readFileSync(file).equals(AS_WRITTEN), 'it reads what was written to the device')
  const out = openSync(file, 'r+')
  writeSync(out, 'x', 100)
  fsyncSync(out)
  closeSync(out)
  const expected = Buffer.from(AS_WRITTEN)
  expected.write('x', 100)
  t.ok(readDirect(file).equals(expected), 'and one byte later the disk has all of it')
}

export const nothingLeft = (t: Test): void => {
  t.strictSame(deviceNames(), ['host'], 'no device is left')
  t.strictSame(leftFiles(), [], 'no record or node is left')
}

/** Maps a user's file, writes to the device, and lets something happen before it is unmapped. */
export async function story(
  t: Test,
  name: string,
  meanwhile: (device: MappedDevice, file: string) => string | Promise<string>,
  options: MapOptions = {},
  finish: (device: MappedDevice) => Promise<void> = (device) => device.unmap(),
): Promise<void> {
  const { file, before } = userFile(name)
  const device = await mapFile(file, { name, ...options })
  write(device, file)
  const now = await meanwhile(device, file)
  await finish(device)
  givenBack(t, now, before)
  nothingLeft(t)
  // The disk is small.
  sh(`rm -r ${now.replace(/\/disk.img$/, '')}`)
}

/** Runs dmloop in a mount namespace of its own, after some shell commands there. */
export const elsewhere = (commands: string, ...args: string[]): string =>
  sh(`unshare -m sh -ec '${commands}
    exec "${process.execPath}" "${PEER}" ${args.join(' ')}'`).trim()
