// Proof that a plan still holds, read again from the kernel.
import { DmloopError, dmloopError, exactOrTooLarge } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { EXTENT_TOO_FAR, type BuiltPlan } from './build-plan.js'
import { readStack, sameStack } from './device-stack.js'

/**
 * Reads the extents and the underlying devices again: the file may have changed since the plan was built.
 * Rejects with DMLOOP_FILE_CHANGED unless everything is as it was.
 */
export async function proveUnchanged({ parts }: BuiltPlan): Promise<void> {
  for (const { slice, facts, stack } of parts) {
    const { file, offset, length } = slice
    if (!facts) continue
    const again = await readStack(file)
    if ('code' in again) throw new DmloopError(again)
    if (!stack || !sameStack(stack, again)) {
      const detail = 'the underlying devices changed while it was being mapped'
      throw dmloopError('DMLOOP_FILE_CHANGED', { file: file.path }, detail)
    }
    const moved = await result(
      native.findMovedByte(file.fd, file.addressCall, offset, length, facts.extents),
      file.path,
    ).catch((error: unknown) => {
      throw exactOrTooLarge(error, file.path, EXTENT_TOO_FAR)
    })
    if (moved >= 0) {
      const range = { file: file.path, offset: moved, length: file.blockSize }
      throw dmloopError('DMLOOP_FILE_CHANGED', range, 'changed while it was being mapped')
    }
  }
}
