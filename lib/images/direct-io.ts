// Writing past the page cache (O_DIRECT, open(2)).
import debug from 'debug'
import type { Filesystem } from '../kernel/filesystems.js'
import { native, result } from '../kernel/native.js'
import { FILESYSTEMS } from '../kernel/policy.js'

const log = debug('dmloop:direct-io')

/**
 * Asks for direct I/O. Where a filesystem has none, or cannot be trusted with it, writes go through the page cache.
 */
export async function tryDirectIo(
  fd: number,
  path: string,
  { name }: Pick<Filesystem, 'name'>,
): Promise<void> {
  if (FILESYSTEMS[name]?.buffered === true) return
  await result(native.setDirect(fd, true), path).catch((error: unknown) => {
    log('%s: without direct I/O: %o', path, error)
  })
}
