// A table is loaded and proven before it goes live.
import { assertBlocksFree } from './plan/overlap.js'
import { loadTable } from './kernel/device-mapper.js'
import type { DmDevice } from './kernel/native.js'
import { proveUnchanged, type DrawnPlan } from './plan/plan-file.js'

/**
 * Loads a plan's table into a device without making it live, and looks whether it may be: no other mapping
 * shows its blocks (DMLOOP_ALREADY_MAPPED), and the files lie where they lay (DMLOOP_FILE_CHANGED).
 */
export async function loadProven(device: DmDevice, drawn: DrawnPlan): Promise<void> {
  const { segments, readOnly } = drawn.plan
  await loadTable(device, segments, readOnly)
  await assertBlocksFree(drawn, device.uuid)
  await proveUnchanged(drawn)
}
