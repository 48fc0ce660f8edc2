// What went wrong: the exit status, the words for people and the JSON for scripts.
import { constants } from 'node:os'
import { inspect } from 'node:util'
import { DmloopError, type Problem, type SystemError } from '../index.js'
import { UsageError } from './arguments.js'
import type { ErrorJson } from './json.js'
import { STATUS } from './status.js'
import { printable } from './text.js'
import { inCommandWords } from './words.js'

/** The reason of a call that a signal has stopped. */
export class Interrupted extends Error {
  constructor(
    readonly code: NodeJS.Signals,
    outcome: string,
  ) {
    super(`stopped by ${code}; ${outcome}`)
  }
}

const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? error.code
    : undefined

const isUsageError = (error: unknown): error is Error =>
  error instanceof UsageError ||
  /^ERR_(PARSE_ARGS|INVALID_ARG|OUT_OF_RANGE)/.test(codeOf(error) ?? '')

const isSystemError = (error: unknown): error is SystemError =>
  error instanceof Error && 'syscall' in error && codeOf(error) !== undefined

/** As a shell has it for a process that a signal has ended. */
const signalStatus = (signal: NodeJS.Signals): number => 128 + constants.signals[signal]

export function statusOf(error: unknown): number {
  if (error instanceof DmloopError) return STATUS.refused
  if (error instanceof Interrupted) return signalStatus(error.code)
  return isUsageError(error) ? STATUS.usage : STATUS.failed
}

/** A problem, and what to do about it on the next line. */
export const problemText = ({ message, remedy }: Pick<Problem, 'message' | 'remedy'>): string =>
  `${printable(inCommandWords(message))}\n  ${printable(inCommandWords(remedy))}\n`

/** The lines for people. */
export function failureText(error: unknown, verb?: string): string {
  const cause = causeOf(error)
  const because =
    cause === undefined || String(error).includes(cause) ? '' : `  Cause: ${printable(cause)}\n`
  if (error instanceof DmloopError) {
    return error.problems.map((each) => `dmloop: ${problemText(each)}`).join('') + because
  }
  if (isUsageError(error)) {
    const help = verb === undefined ? 'dmloop help' : `dmloop help ${verb}`
    return `dmloop: ${printable(usageMessage(error))}. Try: ${help}\n`
  }
  if (isSystemError(error)) {
    return `dmloop: ${printable(error.message)}\n${rootHint(error)}${because}`
  }
  if (error instanceof Interrupted) return `dmloop: ${error.message}\n`
  return `dmloop: ${inspect(error)}\n`
}

/** parseArgs adds how to give an operand that starts with a hyphen, in several lines. */
const usageMessage = ({ message }: Error): string =>
  inCommandWords(message.replace(/\. To specify [^]*$|\n[^]*$/, '')).replace(/\.$/, '')

const rootHint = ({ code }: SystemError): string =>
  (code === 'EACCES' || code === 'EPERM') && process.geteuid?.() !== 0 ? '  Run it as root.\n' : ''

const causeOf = (error: unknown): string | undefined =>
  error instanceof Error && error.cause instanceof Error ? error.cause.message : undefined

export function errorJson(error: unknown): ErrorJson {
  const cause = causeOf(error)
  const common = {
    code: codeOf(error) ?? 'ERR_UNEXPECTED',
    message: error instanceof Error ? error.message : inspect(error),
    ...(cause === undefined ? {} : { cause }),
  }
  if (error instanceof DmloopError) {
    const { remedy, file, offset, length, problems } = error
    const range = {
      ...(file === undefined ? {} : { file }),
      ...(offset === undefined ? {} : { offset }),
      ...(length === undefined ? {} : { length }),
    }
    // The error's own message has the remedy in it.
    const message = problems[0]?.message ?? common.message
    return { ...common, message, remedy, ...range, problems: [...problems] }
  }
  if (isSystemError(error)) {
    const { errno, syscall, path } = error
    return { ...common, errno, syscall, ...(path === undefined ? {} : { path }) }
  }
  return common
}
