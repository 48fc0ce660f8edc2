import type { BackingFile } from './backing-file.js'
import { native, result } from './native.js'

export async function expelStalePages({ fd, path }: BackingFile): Promise<void> {
  await result(native.dropCache(fd), path)
}
