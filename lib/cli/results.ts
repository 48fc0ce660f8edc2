// Verbs of several operands: what fails for one is said, and the next is tried.
import type { MappedDevice } from '../index.js'
import { UsageError } from './arguments.js'
import { errorJson, failureText, Interrupted, statusOf } from './failures.js'
import { jsonText, type FailedJson, type ResultJson, type ResultsJson } from './json.js'
import { STATUS } from './status.js'
import type { Call } from './verb.js'

interface Target {
  operand: string
  open: () => Promise<MappedDevice>
}

/** The mappings that a call is about: those that are named, or all. */
export async function findTargets({
  operands,
  values,
  dmloop,
}: Pick<Call<'all'>, 'operands' | 'values' | 'dmloop'>): Promise<Target[]> {
  if (!values.all) {
    if (operands.length === 0) throw new UsageError('name a mapping, or say --all')
    return operands.map((operand) => ({ operand, open: () => dmloop.openMapping(operand) }))
  }
  if (operands.length > 0) throw new UsageError('--all leaves nothing to name')
  // A mapping of a file inside another mapping was made after it, and is removed before it.
  const mappings = (await dmloop.listMappings()).sort((a, b) => b.minor - a.minor)
  return mappings.map((mapping) => ({
    operand: mapping.name,
    open: () => Promise.resolve(mapping),
  }))
}

/**
 * Runs an action for each target; resolves to the highest exit status. `show` says what people see of a
 * success, and its status.
 */
export async function forEachTarget<T extends { operand: string }, Result extends object>(
  { json, screen, verb }: Pick<Call, 'json' | 'screen' | 'verb'>,
  targets: readonly T[],
  action: (target: T) => Promise<Result>,
  show: (result: Result, operand: string) => number = () => STATUS.done,
): Promise<number> {
  const results: (ResultJson<Result> | FailedJson)[] = []
  let status: number = STATUS.done
  for (const target of targets) {
    const { operand } = target
    try {
      const result = await action(target)
      results.push({ operand, ...result })
      status = Math.max(status, show(result, operand))
    } catch (error) {
      if (error instanceof Interrupted) throw error
      results.push({ operand, error: errorJson(error) })
      status = Math.max(status, statusOf(error))
      if (!json) screen.warn(failureText(error, verb))
    }
  }
  const document: ResultsJson<Result> = { results }
  if (json) screen.print(jsonText(document))
  return status
}
