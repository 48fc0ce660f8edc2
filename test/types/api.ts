// What the compiler says to those who use the package; nothing here runs. It is compiled against
// dist/*.d.ts, here and where the packed package is installed (test/host/package.test.ts).
import {
  DmloopError,
  listMappings,
  MappedDevice,
  mapFile,
  openMapping,
  planFile,
  releaseFile,
  wrapDevice,
  type DmloopCode,
  type Extent,
  type MapOptions,
  type Partition,
  type Plan,
  type Problem,
  type Progress,
  type Segment,
  type SystemError,
  type Verification,
} from 'dmloop'

/** That a value is of a type. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- Callers name it.
const is = <Type>(_: Type): void => undefined

export async function plan(): Promise<void> {
  const plan: Plan = await planFile('/image')
  is<Problem[]>(plan.problems)
  is<number>(plan.size)
  for (const extent of plan.extents) is<Extent>(extent)
  for (const segment of plan.segments) is<Segment>(segment)
  is<string>(plan.toTable())
  await planFile(['/one', '/two'], { offset: 0, readOnly: true, holes: 'zero', guard: 'none' })
  // @ts-expect-error A plan compares nothing.
  await planFile('/image', { verify: 'full' })
  // @ts-expect-error It is not the caller's to change.
  plan.size = 1
}

export async function map(): Promise<void> {
  const options: MapOptions = { signal: AbortSignal.timeout(1000), timeout: 500, name: 'image' }
  await using device = await mapFile('/image', {
    ...options,
    onProgress: (progress) => is<Progress>(progress),
  })
  is<MappedDevice>(device)
  is<'linear' | 'loop'>(device.backend)
  is<readonly Partition[]>(device.partitions)
  is<readonly Problem[]>(device.partitionProblems)
  is<Verification>(await device.verify({ content: 'sample' }))
  await device.extend()
  await device.unmap({ deferred: true })
  // @ts-expect-error There is no such backend.
  await mapFile('/image', { backend: 'raid' })
  // @ts-expect-error Nor such a guard.
  await mapFile('/image', { guard: 'strict' })
  // @ts-expect-error A file has to be named.
  await mapFile()
  // @ts-expect-error Devices come from mapFile, openMapping, listMappings and wrapDevice.
  new MappedDevice()
}

export async function find(): Promise<void> {
  is<MappedDevice>(await openMapping('/dev/mapper/image'))
  is<MappedDevice[]>(await listMappings())
  await releaseFile('/image')
  await wrapDevice('/dev/sdz1', { name: 'wrapped', udevScan: false })
  // @ts-expect-error The name is not optional.
  await wrapDevice('/dev/sdz1')
}

export function explain(error: unknown): string {
  if (error instanceof DmloopError) {
    is<DmloopCode>(error.code)
    // @ts-expect-error There is no such code.
    if (error.code === 'DMLOOP_BAD_LUCK') return ''
    return error.remedy
  }
  return (error as SystemError).syscall
}

// @ts-expect-error What is marked @internal is not there.
export const source = (plan: Plan): unknown => plan.segments.source
