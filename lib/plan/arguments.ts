// Checks of arguments, before anything is touched: a TypeError or a RangeError in Node's own words.
import { toUSVString } from 'node:util'
import { invalidType, invalidValue, outOfRange } from '../kernel/errors.js'
import type { ProgressListener } from './progress.js'

export type Options = Record<string, unknown>

export function object(value: unknown, known: readonly string[]): Options {
  if (value === undefined) return {}
  if (typeof value !== 'object' || value === null) throw invalidType('options', 'an object', value)
  // A misspelt option would be a silent default, which for readOnly means a writable disk.
  for (const key of Object.keys(value)) {
    if (!known.includes(key)) throw invalidValue('options', `made of ${known.join(', ')}`, key)
  }
  return value as Options
}

export function integer(options: Options, key: string, minimum: number): number | undefined {
  const value = options[key]
  if (value === undefined) return undefined
  if (typeof value !== 'number') throw invalidType(`options.${key}`, 'a number', value)
  if (!Number.isSafeInteger(value) || value < minimum) {
    throw outOfRange(`options.${key}`, `a safe integer of at least ${minimum}`, value)
  }
  return value
}

export function boolean(options: Options, key: string, preset = false): boolean {
  const value = options[key]
  if (value === undefined) return preset
  if (typeof value !== 'boolean') throw invalidType(`options.${key}`, 'a boolean', value)
  return value
}

export function text(options: Options, key: string): string | undefined {
  const value = options[key]
  if (value === undefined) return undefined
  if (typeof value !== 'string') throw invalidType(`options.${key}`, 'a string', value)
  return value
}

export function oneOf<T extends string>(options: Options, key: string, first: T, ...rest: T[]): T {
  const value = options[key]
  if (value === undefined) return first
  const choices: readonly unknown[] = [first, ...rest]
  if (!choices.includes(value)) {
    throw invalidValue(`options.${key}`, `one of ${choices.map(String).join(', ')}`, value)
  }
  return value as T
}

export function listener(options: Options, key: string): ProgressListener | undefined {
  const value = options[key]
  if (value === undefined) return undefined
  if (typeof value !== 'function') throw invalidType(`options.${key}`, 'a function', value)
  return value as ProgressListener
}

export function signalOf(options: Options): AbortSignal | undefined {
  const value = options.signal
  if (value === undefined) return undefined
  if (!(value instanceof AbortSignal)) throw invalidType('options.signal', 'an AbortSignal', value)
  return value
}

export function parsePath(value: unknown, name: string): string {
  if (typeof value !== 'string') throw invalidType(name, 'a string', value)
  // A lone surrogate has no bytes: the path would become that of another file.
  if (value === '' || value.includes('\0') || toUSVString(value) !== value) {
    throw invalidValue(name, 'a path', value)
  }
  return value
}

export function filesOf(file: unknown): string[] {
  if (!Array.isArray(file)) return [parsePath(file, 'file')]
  if (file.length === 0) throw invalidValue('file', 'a path or an array of at least one', file)
  // A gap in the array is an item as well, and no path.
  return Array.from(file, (path: unknown, index) => parsePath(path, `file[${index}]`))
}
