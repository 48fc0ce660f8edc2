// A filesystem to measure on: on a ram disk in the guest; in a file under a loop device on this machine.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { quoted, sh } from '../test/shell.js'

export const IN_GUEST = process.env.DMLOOP_GUEST !== undefined

export interface MeasuredHost {
  /** Where it is mounted. */
  path: string
  remove: () => void
}

/** On a filesystem of such blocks; the journal would only take space. */
const MKFS: Record<string, (block: number) => string> = {
  ext4: (block) => `-q -b ${block} -O ^has_journal`,
  xfs: (block) => `-q -b size=${block}`,
}
/** MiB, in a file on this machine. */
const SIZE = 2500

/** A filesystem with blocks of so many bytes. */
export async function measuredHost(filesystem: string, block = 4096): Promise<MeasuredHost> {
  const mkfs = MKFS[filesystem]?.(block)
  if (mkfs === undefined) throw new Error(`there is no bench on ${filesystem}`)
  if (!IN_GUEST) return hostHere(filesystem, mkfs)
  const { makeHost, oneSegment } = await import('../test/vm/lab.js')
  return makeHost(filesystem, oneSegment(), { name: 'host', mkfs })
}

function hostHere(filesystem: string, mkfs: string): MeasuredHost {
  const { path: folder, remove: removeFolder } = folderHere()
  const [image, path] = [join(folder, 'disk'), join(folder, 'mounted')]
  const remove = (): void => {
    process.off('exit', remove)
    // A lazy one, for whatever it is that has failed.
    sh(`! mountpoint -q ${quoted(path)} || umount ${quoted(path)} || umount --lazy ${quoted(path)}`)
    removeFolder()
  }
  process.prependOnceListener('exit', remove)
  mkdirSync(path)
  sh(`truncate -s ${SIZE}M ${quoted(image)}
    mkfs.${filesystem} ${mkfs} ${quoted(image)}
    mount -o loop ${quoted(image, path)}`)
  return { path, remove }
}

/** A folder on the filesystem that this machine has its temporary files on. */
export function folderHere(): MeasuredHost {
  const path = mkdtempSync(join(tmpdir(), 'dmloop-bench-'))
  const remove = (): void => {
    process.off('exit', remove)
    rmSync(path, { recursive: true, force: true })
  }
  process.once('exit', remove)
  return { path, remove }
}
