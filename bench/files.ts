// Files in many pieces to measure with.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fragmentedFile, makeHost, oneSegment, quoted, randomFile, sh } from '../test/vm/lab.js'

/** Small blocks, so that a million of them fit into memory. */
const BLOCK = 1024

/** Blocks: more than the filesystem keeps free in one place, where a smaller file would go in one piece. */
const LEAST = 20_000

/** Numbers of extents to measure with. An emulated processor takes a quarter of an hour for a million. */
export const sizes = (...all: number[]): number[] =>
  cpus().length > 1 ? all.filter((extents) => extents <= 100_000) : all

/** Bytes that go in one piece on any filesystem. */
const ONE_PIECE = 4 << 20

/** A file to measure with, on a filesystem of its own. */
export interface MeasuredFile {
  file: string
  remove: () => void
}

/** On a filesystem of such blocks; the journal would only take space. */
const MKFS: Record<string, string> = {
  ext4: `-q -b ${BLOCK} -O ^has_journal`,
  xfs: `-q -b size=${BLOCK}`,
}

function makeFile(file: string, extents: number): void {
  if (extents === 1) randomFile(file, ONE_PIECE)
  else fragmentedFile(file, Math.max(extents, LEAST) * BLOCK, extents, 1, BLOCK)
}

/**
 * A filesystem with a file of about so many extents, each a block that borders on no other of the file: a
 * million of them take a gigabyte.
 */
export function fragmentedHost(extents: number): MeasuredFile {
  const host = makeHost('ext4', oneSegment(), { name: 'host', mkfs: MKFS.ext4 })
  const file = `${host.path}/image`
  makeFile(file, extents)
  return {
    file,
    remove() {
      host.remove()
    },
  }
}

/** The same on this machine, in a file in its directory for temporary files, under a loop device. */
export function fragmentedHere(filesystem: string, extents: number): MeasuredFile {
  const folder = mkdtempSync(join(tmpdir(), 'dmloop-bench-'))
  const [image, path] = [join(folder, 'disk'), join(folder, 'mounted')]
  const remove = (): void => {
    process.off('exit', remove)
    // A lazy one, for whatever it is that has failed.
    sh(`! mountpoint -q ${quoted(path)} || umount ${quoted(path)} || umount --lazy ${quoted(path)}`)
    rmSync(folder, { recursive: true })
  }
  process.once('exit', remove)
  mkdirSync(path)
  sh(`truncate -s ${2500 << 20} ${quoted(image)}
    mkfs.${filesystem} ${MKFS[filesystem] ?? ''} ${quoted(image)}
    mount -o loop ${quoted(image, path)}`)
  makeFile(join(path, 'image'), extents)
  return { file: join(path, 'image'), remove }
}
