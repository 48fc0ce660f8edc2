// What --json prints: one document on standard output, whether the command succeeds or not.
import type { Extent, MappedDevice, Partition, PlannedFile, Problem, Segment } from '../index.js'

/** Of `plan`. */
export interface PlanJson {
  backend: 'linear' | 'loop'
  fallback: Problem[]
  problems: Problem[]
  /** Bytes. */
  size: number
  /** Bytes. */
  tailBytes: number
  readOnly: boolean
  files: PlannedFile[]
  /** In bytes. */
  extents: Extent[]
  /** In sectors of 512 bytes. */
  segments: Segment[]
}

/** Of `map`, `wrap` and `image map`. */
export interface DeviceJson {
  name: string
  path: string
  major: number
  minor: number
  uuid: string
  backend: 'linear' | 'loop'
  directIo: boolean
  readOnly: boolean
  /** Bytes. */
  size: number
  segmentCount: number
  files: string[]
  fallback: Problem[]
  partitions: Partition[]
  /** What of the partition table has no device. */
  partitionProblems: Problem[]
}

/** Of `list`. */
export interface ListJson {
  mappings: DeviceJson[]
}

/** Of `create` and `image boot`. */
export interface CreateJson {
  /** The files that were made. */
  files: string[]
}

/** Of verbs that take several operands: what became of each. */
export interface ResultsJson<Result> {
  results: (ResultJson<Result> | FailedJson)[]
}

export type ResultJson<Result> = Result & {
  /** As it was given; with --all, the mapping's name. */
  operand: string
}

export interface FailedJson {
  operand: string
  error: ErrorJson
}

/** `unmap`: the device that was removed. */
export interface UnmappedJson {
  device: DeviceJson
}

export interface VerifiedJson {
  device: DeviceJson
  ok: boolean
  problems: Problem[]
}

/** Of what has nothing more to say. */
export interface DoneJson {
  ok: true
}

/** Of `image create`. */
export interface ImageJson {
  name: string
  /** Bytes. */
  size: number
  readOnly: boolean
  /** Whether mapping it makes devices for its partitions. */
  partitions: boolean
  /** Whether it is deleted as soon as it is not in use. */
  disabled: boolean
  segmentCount: number
  files: string[]
}

/** Of `image list`. */
export interface ImagesJson {
  images: (ImageJson & { mapped: boolean })[]
}

/** Of `image import-lp`. */
export interface ImagesMadeJson {
  images: ImageJson[]
}

/** Of `image map-all`. */
export interface MapAllJson {
  mapped: { name: string; path: string }[]
  problems: { name: string; problem: Problem }[]
}

/** Of `image remove-disabled`. */
export interface NamesJson {
  names: string[]
}

/** `image validate`. */
export interface ValidatedJson {
  ok: boolean
  problems: Problem[]
}

/** Of a command that failed. */
export interface FailureJson {
  error: ErrorJson
}

export interface ErrorJson {
  /** DMLOOP_..., the name of an errno, ERR_... for wrong arguments, or that of a signal. */
  code: string
  message: string
  /** Of a verdict. */
  remedy?: string
  file?: string
  /** Bytes. */
  offset?: number
  /** Bytes. */
  length?: number
  problems?: Problem[]
  /** Of a system call that failed. */
  errno?: number
  syscall?: string
  path?: string
  /** The message of what went wrong before, or in undoing it. */
  cause?: string
}

/** The document of each verb that succeeds; of one that fails it is FailureJson, unless it has results. */
export interface Documents {
  plan: PlanJson
  map: DeviceJson
  unmap: ResultsJson<UnmappedJson>
  list: ListJson
  verify: ResultsJson<VerifiedJson>
  release: ResultsJson<DoneJson>
  wrap: DeviceJson
  provision: ResultsJson<DoneJson>
  create: CreateJson
  'image create': ImageJson
  'image list': ImagesJson
  'image map': DeviceJson
  'image unmap': ResultsJson<DoneJson>
  'image map-all': MapAllJson
  'image validate': ResultsJson<ValidatedJson>
  'image resize': DoneJson
  'image delete': ResultsJson<DoneJson>
  'image disable': ResultsJson<DoneJson>
  'image remove-disabled': NamesJson
  'image boot': CreateJson
  'image export-lp': DoneJson
  'image import-lp': ImagesMadeJson
}

export const deviceJson = (device: MappedDevice): DeviceJson => ({
  name: device.name,
  path: device.path,
  major: device.major,
  minor: device.minor,
  uuid: device.uuid,
  backend: device.backend,
  directIo: device.directIo,
  readOnly: device.readOnly,
  size: device.size,
  segmentCount: device.segmentCount,
  files: [...device.files],
  fallback: [...device.fallback],
  partitions: [...device.partitions],
  partitionProblems: [...device.partitionProblems],
})

export const jsonText = (document: unknown): string => `${JSON.stringify(document, null, 2)}\n`
