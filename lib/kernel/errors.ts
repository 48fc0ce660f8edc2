import { constants } from 'node:os'
import { getSystemErrorName, inspect } from 'node:util'
import { POLICY, type DmloopCode } from './policy.js'

export interface FileRange {
  /** The file's path. */
  file?: string | undefined
  /** Bytes from the start of the file. */
  offset?: number | undefined
  /** Bytes. */
  length?: number | undefined
}

/** What stands in the way of a mapping. */
export interface Problem extends FileRange {
  code: DmloopCode
  message: string
  /** What a person can do about it. */
  remedy: string
  /** Which backends it rules out: only `'linear'`, or `'all'`. */
  blocks: 'linear' | 'all'
}

/** Frames: ten, which Node takes, do not reach from the depth of a walk to whoever has called it. */
const STACK_DEPTH = 40

/** Takes an error's stack anew, so deep that it leads to the caller. */
function deepen<T extends Error>(error: T): T {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = STACK_DEPTH
  Error.captureStackTrace(error, deepen)
  Error.stackTraceLimit = stackTraceLimit
  return error
}

/** A verdict of the library's own: `code` is one of the `DMLOOP_*` codes. */
export class DmloopError extends Error implements FileRange {
  readonly code: DmloopCode
  readonly remedy: string
  readonly file?: string | undefined
  readonly offset?: number | undefined
  readonly length?: number | undefined
  /** Everything that blocks, the first of them being this error. */
  readonly problems: readonly Problem[]

  constructor(problem: Problem, problems: readonly Problem[] = [problem], options?: ErrorOptions) {
    super(`${problem.message} ${problem.remedy}`, options)
    this.name = 'DmloopError'
    this.code = problem.code
    this.remedy = problem.remedy
    this.file = problem.file
    this.offset = problem.offset
    this.length = problem.length
    this.problems = problems
    deepen(this)
  }
}

const rangeText = ({ offset, length }: FileRange): string =>
  offset === undefined || length === undefined ? '' : ` (bytes ${offset} to ${offset + length - 1})`

/**
 * The problem that a rule of the policy describes, for one file and range. `detail` says what was
 * found; without it the rule's own words do.
 */
export function problem(code: DmloopCode, range: FileRange = {}, detail?: string): Problem {
  const rule = POLICY[code]
  const subject = range.file === undefined ? '' : `${range.file}: `
  return {
    code,
    message: `${subject}${detail ?? rule.found}${rangeText(range)}.`,
    remedy: rule.remedy,
    blocks: rule.blocks,
    ...range,
  }
}

/** The error of a single problem. */
export const verdict = (code: DmloopCode, range: FileRange = {}, detail?: string): DmloopError =>
  new DmloopError(problem(code, range, detail))

/** An answer of the kernel's with numbers that JavaScript would round becomes the verdict on it. */
export function exactOrTooLarge(error: unknown, file: string, detail: string): unknown {
  return isSystemError(error, 'EOVERFLOW')
    ? new DmloopError(problem('DMLOOP_TOO_LARGE', { file }, detail), undefined, { cause: error })
    : error
}

/** An error as Node's own file functions make it: `code`, negative `errno`, `syscall`, `path`. */
export interface SystemError extends Error {
  code: string
  errno: number
  syscall: string
  path?: string
}

/** The name of a negative errno. libuv has none for some, ESTALE among them. */
function errorName(errno: number): string {
  const known = Object.entries(constants.errno).find(([, value]) => value === -errno)
  return known?.[0] ?? getSystemErrorName(errno)
}

export function systemError(
  failure: { errno: number; syscall: string },
  path?: string,
): SystemError {
  const { errno, syscall } = failure
  const code = errorName(errno)
  const message = `${code}: ${syscall}${path === undefined ? '' : ` '${path}'`}`
  return Object.assign(
    deepen(new Error(message)),
    { code, errno, syscall },
    path === undefined ? {} : { path },
  )
}

export const isSystemError = (error: unknown, ...codes: string[]): error is SystemError =>
  error instanceof Error &&
  'syscall' in error &&
  'code' in error &&
  codes.includes(String(error.code))

function invalid(Base: ErrorConstructor, code: string, message: string): Error {
  return Object.assign(new Base(message), { code })
}

export const invalidType = (name: string, expected: string, actual: unknown): Error =>
  invalid(
    TypeError,
    'ERR_INVALID_ARG_TYPE',
    `${name} must be ${expected}; received ${actual === null ? 'null' : typeof actual}`,
  )

export const invalidValue = (name: string, expected: string, actual: unknown): Error =>
  invalid(
    TypeError,
    'ERR_INVALID_ARG_VALUE',
    `${name} must be ${expected}; received ${inspect(actual)}`,
  )

export const outOfRange = (name: string, expected: string, actual: unknown): Error =>
  invalid(RangeError, 'ERR_OUT_OF_RANGE', `${name} must be ${expected}; received ${String(actual)}`)
