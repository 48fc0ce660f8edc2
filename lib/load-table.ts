// Loads the table of a plan, and proves it before it goes live.
import { loadTable } from './kernel/device-mapper.js'
import type { DmDevice } from './kernel/native.js'
import type { BuiltPlan } from './plan/build-plan.js'
import { assertBlocksUnmapped } from './plan/overlap.js'
import { proveUnchanged } from './plan/prove-plan.js'

/**
 * Loads a plan's table into a device without making it live. Rejects with DMLOOP_ALREADY_MAPPED when another
 * mapping has some of its blocks, and with DMLOOP_FILE_CHANGED when the plan no longer holds.
 */
export async function loadProven(device: DmDevice, built: BuiltPlan): Promise<void> {
  const { segments, readOnly } = built.plan
  await loadTable(device, segments, readOnly)
  await assertBlocksUnmapped(built, device.uuid)
  await proveUnchanged(built)
}
