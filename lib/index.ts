export { planFile } from './plan-file.js'
export { mapFile } from './map-file.js'
export { openMapping, listMappings } from './open-mapping.js'
export { releaseFile } from './remains.js'
export { wrapDevice } from './wrap-device.js'
export { MappedDevice, type Verification } from './mapped-device.js'
export { Plan, type PlannedFile } from './plan.js'
export { ExtentTable, type Extent } from './extents.js'
export { SegmentTable, type Segment } from './segments.js'
export { DmloopError, type Problem, type SystemError } from './errors.js'
export type { DmloopCode } from './policy.js'
export type { Progress } from './content.js'
export type {
  MapOptions,
  PlanOptions,
  UnmapOptions,
  VerifyOptions,
  WrapOptions,
} from './options.js'
