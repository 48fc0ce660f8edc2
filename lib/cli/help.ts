// Help, from the table of verbs; docs/command.md has the same text.
import { COMMON, optionOf, type Option, type OptionKey } from './options.js'
import { alignColumns, wrapWords } from './text.js'
import type { Verb } from './verb.js'
import { IMAGE_VERBS } from './image/verbs.js'
import { IMAGE, VERBS } from './verbs.js'

const EXIT_STATUS = `Exit status:
  0  done
  1  refused, or a problem was found: each is printed with its remedy
  2  the command line is wrong
  3  a system call failed
  128 + N after signal N, as a shell counts`

const SIZES =
  'SIZE is in bytes, or has a suffix: K, M, G, T (or KiB, MiB ...) for powers of 1024, KB, MB, GB, TB for powers of 1000.'

export function generalHelp(): string {
  const images = [`  ${IMAGE} VERB`, `keep images by name: dmloop help ${IMAGE}`]
  const examples = VERBS.map(({ examples: [first = ''] }) => `  ${first}\n`)
  return `Makes a block device of a file’s own blocks, at the speed of the disk.

Usage: dmloop VERB [OPTION ...] OPERAND ...

${alignColumns([...summariesOf(VERBS), images])}
dmloop help VERB    the options of a verb
dmloop --version    the version

Examples:
${examples.join('')}
${EXIT_STATUS}
`
}

const summariesOf = (verbs: readonly Verb[]): string[][] =>
  verbs.map(({ name, summary }) => [`  ${name}`, summary])

/** The verbs of image stores. */
export const imageHelp = (): string => `Keeps images by name, in a directory.

Usage: dmloop ${IMAGE} VERB [OPTION ...] DIRECTORY [OPERAND ...]

${alignColumns(summariesOf(IMAGE_VERBS))}
dmloop help ${IMAGE} VERB    the options of a verb
`

export function verbHelp({ name, operands, summary, details, examples, options }: Verb): string {
  const keys: OptionKey[] = [...options, ...COMMON]
  const takesSize = keys.some((key) => optionOf(key).kind === 'size')
  return `Usage: dmloop ${name} [OPTION ...] ${operands}

${wrapWords(`${summary.charAt(0).toUpperCase()}${summary.slice(1)}.`)}
${wrapWords(details)}

Options:
${keys.map((key) => describeOption(optionOf(key))).join('')}${takesSize ? `\n${wrapWords(SIZES)}\n` : ''}
${examples.length === 1 ? 'Example' : 'Examples'}:
${examples.map((each) => `  ${each}\n`).join('')}`
}

/** How wide the flags are, after which their descriptions start. */
const FLAGS = 26

function describeOption(option: Option): string {
  const { short, flag, help } = option
  const value =
    option.kind === 'choice'
      ? `=${option.choices.join('|')}`
      : 'value' in option
        ? `=${option.value}`
        : ''
  const flags = `  ${short === undefined ? '   ' : `-${short},`} --${flag}${value}`
  const text = wrapWords(help, ' '.repeat(FLAGS))
  return flags.length < FLAGS - 1
    ? `${flags.padEnd(FLAGS)}${text.trimStart()}\n`
    : `${flags}\n${text}\n`
}
