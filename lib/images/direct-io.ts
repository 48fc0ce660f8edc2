// Writing past the page cache (O_DIRECT, open(2)).
import debug from 'debug'
import { native, result } from '../kernel/native.js'

const log = debug('dmloop:direct-io')

/** Asks for direct I/O. Where a filesystem has none, writes go through the page cache. */
export async function tryDirectIo(fd: number, path: string): Promise<void> {
  await result(native.setDirect(fd, true), path).catch((error: unknown) => {
    log('%s: without direct I/O: %o', path, error)
  })
}
