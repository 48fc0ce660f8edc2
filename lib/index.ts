export { planFile } from './plan/plan-file.js'
export { mapFile } from './map-file.js'
export { openMapping, listMappings } from './open-mapping.js'
export { releaseFile } from './recovery.js'
export { wrapDevice } from './wrap-device.js'
export { createImage } from './images/create-image.js'
export { provisionFile } from './images/provision-file.js'
export { ImageStore, type StoredImage } from './store/image-store.js'
export type { MappedImages } from './store/map-each.js'
export type { SuperPartition } from './store/export-lp.js'
export { MappedDevice, type Verification } from './mapped-device.js'
export { Plan, type PlannedFile } from './plan/plan.js'
export { ExtentTable, type Extent } from './plan/extents.js'
export { SegmentTable, type Segment } from './kernel/segments.js'
export type { Partition } from './partitions.js'
export { DmloopError, type Problem, type SystemError } from './kernel/errors.js'
export type { DmloopCode } from './kernel/policy.js'
export type { CreateOptions, ProvisionOptions } from './images/options.js'
export type { BootKind } from './store/boot-files.js'
export type {
  ExportBootOptions,
  LpExportOptions,
  LpImportOptions,
  MapAllOptions,
  NewWrapper,
  ResizeOptions,
  StoreCreateOptions,
  StoreMapOptions,
  StoreOptions,
} from './store/options.js'
export type { Progress, ProgressListener } from './plan/progress.js'
export type { PlanOptions } from './plan/plan-options.js'
export type { MapOptions, UnmapOptions, VerifyOptions, WrapOptions } from './options.js'
