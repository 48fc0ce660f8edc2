import { randomUUID } from 'node:crypto'
import debug from 'debug'
import { BackingFiles, type BackingFile } from './backing-file.js'
import { Claim, readRecord, type MappingRecord } from './claim.js'
import {
  alreadyMapped,
  createDevice,
  findDevice,
  hasLiveTable,
  loadTable,
  removeDevice,
  resumeDevice,
} from './device-mapper.js'
import { MappedDevice } from './mapped-device.js'
import { deviceNameFor, uuidOf } from './names.js'
import { parseMapOptions, type MapOptions, type MapRequest } from './options.js'
import { drawPlan, proveUnchanged } from './plan-file.js'
import type { Plan } from './plan.js'
import { Undo } from './undo.js'
import type { Patience } from './wait.js'

const log = debug('dmloop:map')

/**
 * Makes a block device of a file (or of several, laid end to end): its I/O goes straight to the
 * file's own blocks. When the promise resolves, /dev/mapper/NAME opens.
 *
 * Rejects with the first problem that blocks as a DmloopError (all of them on `error.problems`), with
 * the system's error when a call fails, with a TypeError or RangeError for a wrong argument, and with
 * the signal's reason when aborted. Then nothing is left behind.
 */
export async function mapFile(
  file: string | string[],
  options?: MapOptions,
): Promise<MappedDevice> {
  const request = parseMapOptions(file, options)
  request.signal?.throwIfAborted()
  await using files = await BackingFiles.open(request.files)
  const [first] = files.list as [BackingFile]
  const name = deviceNameFor(first.path, request.name)
  await using claim = await Claim.take(
    files.list.map((each) => each.identity),
    request,
  )
  await clearRemains(files.list, request)

  await files.sync()
  const drawn = await drawPlan(files.list, request)
  const { plan } = drawn
  plan.assertMappable()
  request.signal?.throwIfAborted()

  const undo = new Undo()
  try {
    undo.onFailure(() => claim.clear())
    const device = await createDevice(name, uuidOf(first.identity), first.path)
    undo.onFailure(() =>
      removeDevice(device, { deferred: false, timeout: request.timeout, signal: undefined }),
    )
    const record = recordOf(files.list, plan, request)
    await claim.write(record)
    await loadTable(device, plan.segments, plan.readOnly)
    await proveUnchanged(drawn)
    request.signal?.throwIfAborted()
    const live = await resumeDevice(device, request)
    log(
      '%s is %s',
      files.list.map((each) => each.path),
      name,
    )
    return new MappedDevice(live, record, plan.size)
  } catch (error) {
    for (const failure of await undo.run()) log('undoing %s: %o', name, failure)
    throw error
  }
}

const recordOf = (
  files: readonly BackingFile[],
  plan: Plan,
  request: MapRequest,
): MappingRecord => ({
  id: randomUUID(),
  uuid: uuidOf(files[0]?.identity ?? ''),
  files: files.map((file) => file.path),
  identities: files.map((file) => file.identity),
  offset: request.offset,
  length: plan.size,
  readOnly: plan.readOnly,
  holes: request.holes,
})

/**
 * Rejects with DMLOOP_ALREADY_MAPPED if one of the files has a mapping. What a crash left half-made is
 * removed: the claim says that nobody is at it.
 */
async function clearRemains(files: readonly BackingFile[], patience: Patience): Promise<void> {
  for (const { identity, path } of files) {
    const record = await readRecord(identity)
    const uuids = new Set([uuidOf(identity), ...(record ? [record.uuid] : [])])
    for (const uuid of uuids) {
      const device = await findDevice({ uuid })
      if (!device) continue
      if (hasLiveTable(device)) throw alreadyMapped(path, device)
      log('removing %s, left half-made', device.name)
      await removeDevice(device, { ...patience, deferred: false })
    }
  }
}
