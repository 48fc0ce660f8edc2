export { planFile } from './plan/plan-file.js'
export { mapFile } from './map-file.js'
export { openMapping, listMappings } from './open-mapping.js'
export { releaseFile } from './recovery.js'
export { wrapDevice } from './wrap-device.js'
export { MappedDevice, type Verification } from './mapped-device.js'
export { Plan, type PlannedFile } from './plan/plan.js'
export { ExtentTable, type Extent } from './plan/extents.js'
export { SegmentTable, type Segment } from './kernel/segments.js'
export { DmloopError, type Problem, type SystemError } from './kernel/errors.js'
export type { DmloopCode } from './kernel/policy.js'
export type { Progress } from './plan/content.js'
export type {
  MapOptions,
  PlanOptions,
  UnmapOptions,
  VerifyOptions,
  WrapOptions,
} from './options.js'
