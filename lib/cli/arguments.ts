// From words to values: what parseArgs of node:util leaves to do.
import { parseArgs } from 'node:util'
import { COMMON, optionOf, type Option, type OptionKey } from './options.js'

/** The words do not say what to do. */
export class UsageError extends Error {
  readonly code = 'DMLOOP_USAGE'
}

export interface Arguments {
  operands: string[]
  values: Record<string, unknown>
}

export function parseArguments(words: readonly string[], keys: readonly OptionKey[]): Arguments {
  const options = [...keys, ...COMMON].map((key) => ({ key, option: optionOf(key) }))
  const { values, positionals } = parseArgs({
    args: [...words],
    allowPositionals: true,
    options: Object.fromEntries(options.map(({ option }) => [option.flag, configOf(option)])),
  })
  const given = options.flatMap(({ key, option }) => {
    const value = values[option.flag]
    return value === undefined ? [] : [[key, convert(option, value)] as const]
  })
  return { operands: positionals, values: Object.fromEntries(given) }
}

const configOf = ({ kind, short }: Option): { type: 'boolean' | 'string'; short?: string } => ({
  type: kind === 'on' || kind === 'off' ? 'boolean' : 'string',
  ...(short === undefined ? {} : { short }),
})

function convert(option: Option, value: string | boolean): unknown {
  if (typeof value === 'boolean') return option.kind === 'on'
  switch (option.kind) {
    case 'size':
      return parseSize(value, option.flag)
    case 'count':
      return parseCount(value, option.flag)
    case 'seconds':
      return parseSeconds(value, option.flag)
    case 'choice':
      if (option.choices.includes(value)) return value
      throw wrong(option.flag, `one of ${option.choices.join(', ')}`, value)
    case 'text':
    case 'on':
    case 'off':
      return value
  }
}

const wrong = (flag: string, expected: string, value: string): UsageError =>
  new UsageError(`--${flag} must be ${expected}; received ${JSON.stringify(value)}`)

const POWERS = 'KMGTPE'

/** Bytes of a size as util-linux writes it: K, M ... and KiB, MiB ... are powers of 1024, KB, MB ... of 1000. */
export function parseSize(text: string, flag: string): number {
  const [, whole, fraction, letter, suffix] =
    /^(\d+)(\.\d+)?(?:([KMGTPE])(iB|B)?)?$/i.exec(text) ?? []
  if (whole === undefined) throw wrong(flag, 'a size such as 4096, 64K or 1.5GiB', text)
  const power = letter === undefined ? 0 : POWERS.indexOf(letter.toUpperCase()) + 1
  const unit = (suffix?.toUpperCase() === 'B' ? 1000 : 1024) ** power
  const size = Number(whole) * unit + Number(fraction ?? 0) * unit
  if (Number.isSafeInteger(size)) return size
  throw wrong(flag, `a whole number of bytes, up to ${Number.MAX_SAFE_INTEGER}`, text)
}

function parseCount(text: string, flag: string): number {
  const count = Number(text)
  if (/^\d+$/.test(text) && Number.isSafeInteger(count)) return count
  throw wrong(flag, 'a whole number', text)
}

/** Milliseconds. */
function parseSeconds(text: string, flag: string): number {
  const milliseconds = Math.round(Number(text) * 1000)
  if (/^\d+(\.\d+)?$/.test(text) && Number.isSafeInteger(milliseconds)) return milliseconds
  throw wrong(flag, 'a number of seconds', text)
}
