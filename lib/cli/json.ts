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

/** Of `map` and `wrap`. */
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

/** Of `create`. */
export interface CreateJson {
  /** The files that were made. */
  files: string[]
}

/** Of `unmap`, `verify`, `release` and `provision`: what became of each operand. */
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

/** `release` and `provision`. */
export interface DoneJson {
  ok: true
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
