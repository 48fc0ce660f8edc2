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

/** Something that prevents a mapping. */
export interface Problem extends FileRange {
  code: DmloopCode
  message: string
  /** What a person can do about it. */
  remedy: string
  /** Which backends it rules out: only `'linear'`, or `'all'`. */
  blocks: 'linear' | 'all'
}

/** Frames. Node's default of ten does not reach from deep inside a call to its caller. */
const STACK_DEPTH = 40

/** Captures an error's stack again, deep enough to include the caller of the library. */
function captureFullStack<T extends Error>(error: T): T {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = STACK_DEPTH
  Error.captureStackTrace(error, captureFullStack)
  Error.stackTraceLimit = stackTraceLimit
  return error
}

/** An error of the library itself: `code` is one of the `DMLOOP_*` codes. */
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
    captureFullStack(this)
  }
}

const rangeText = ({ offset, length }: FileRange): string =>
  offset === undefined || length === undefined ? '' : ` (bytes ${offset} to ${offset + length - 1})`

/**
 * The problem that a rule of the policy describes, for one file and range. `detail` says what was found, in
 * place of the rule's own words.
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
export const dmloopError = (
  code: DmloopCode,
  range: FileRange = {},
  detail?: string,
): DmloopError => new DmloopError(problem(code, range, detail))

/** Turns the error for a number that JavaScript would round into DMLOOP_TOO_LARGE. */
export function exactOrTooLarge(error: unknown, file: string, detail: string): unknown {
  return isSystemError(error, 'EOVERFLOW')
    ? new DmloopError(problem('DMLOOP_TOO_LARGE', { file }, detail), undefined, { cause: error })
    : error
}

/** An error like those of Node's file functions: `code`, negative `errno`, `syscall`, `path`. */
export interface SystemError extends Error {
  code: string
  errno: number
  syscall: string
  path?: string
}

/** Where an errno has two names, the first one counts: EAGAIN, not EWOULDBLOCK. */
const ERRNO_NAMES = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, value]) => [-value, name]),
)

/** The name of a negative errno. libuv has none for some, ESTALE among them. */
const errorName = (errno: number): string => ERRNO_NAMES.get(errno) ?? getSystemErrorName(errno)

export function systemError(
  failure: { errno: number; syscall: string },
  path?: string,
): SystemError {
  const { errno, syscall } = failure
  const code = errorName(errno)
  const message = `${code}: ${syscall}${path === undefined ? '' : ` '${path}'`}`
  return Object.assign(
    captureFullStack(new Error(message)),
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
