// Files of random bytes to map.
import { fileURLToPath } from 'node:url'
import { quoted, sh } from './shell.js'

const FRAGMENT = fileURLToPath(new URL('../../build/Release/fragment', import.meta.url))

/** A file of random bytes in about so many extents, on a filesystem of such blocks. */
export function fragmentedFile(
  path: string,
  bytes: number,
  extents: number,
  seed: number,
  block = 4096,
): void {
  sh(quoted(FRAGMENT, path, bytes, extents, seed, block))
}

/** A file of random bytes. */
export function randomFile(path: string, bytes: number): void {
  sh(`head -c ${bytes} /dev/urandom >${quoted(path)} && sync ${quoted(path)}`)
}
