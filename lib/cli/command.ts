// The command `dmloop`: from its words to a verb, and from what that comes to, to the exit status.
import { readFileSync } from 'node:fs'
import type { Readable } from 'node:stream'
import * as dmloop from '../index.js'
import { parseArguments, UsageError } from './arguments.js'
import { errorJson, failureText, Interrupted, statusOf } from './failures.js'
import { generalHelp, imageHelp, verbHelp } from './help.js'
import { jsonText, type FailureJson } from './json.js'
import { optionOf } from './options.js'
import { Screen, type Streams } from './screen.js'
import { STATUS } from './status.js'
import type { Library, Verb } from './verb.js'
import { IMAGE, splitVerb } from './verbs.js'

export interface Surroundings extends Streams {
  stdin: Readable
}

/** Runs the command with some words; resolves to its exit status. */
export async function runCommand(
  words: readonly string[],
  surroundings: Surroundings,
  library: Library = dmloop,
): Promise<number> {
  const screen = new Screen(surroundings)
  const { verb, rest } = splitVerb(words)
  try {
    if (verb) return await runVerb(verb, rest, screen, surroundings, library)
    return runGeneral(words[0], rest, screen)
  } catch (error) {
    reportFailure(error, verb, rest, screen)
    return statusOf(error)
  } finally {
    screen.clearProgress()
  }
}

function runGeneral(first: string | undefined, rest: readonly string[], screen: Screen): number {
  switch (first) {
    case undefined:
      screen.warn(generalHelp())
      return STATUS.usage
    case 'help':
    case '--help':
    case '-h':
      screen.print(helpOn(rest))
      return STATUS.done
    case IMAGE:
      if (rest[0] === undefined) {
        screen.warn(imageHelp())
        return STATUS.usage
      }
      if (!HELP.includes(rest[0])) throw unknownVerb([first, ...rest])
      screen.print(imageHelp())
      return STATUS.done
    case '--version':
    case '-V':
      screen.print(`dmloop ${version()}\n`)
      return STATUS.done
    default:
      throw unknownVerb([first])
  }
}

const HELP = ['--help', '-h']

function helpOn(words: readonly string[]): string {
  const { verb } = splitVerb(words)
  if (verb) return verbHelp(verb)
  if (words.length === 0) return generalHelp()
  if (words.length === 1 && words[0] === IMAGE) return imageHelp()
  throw unknownVerb(words)
}

const unknownVerb = (words: readonly string[]): UsageError =>
  new UsageError(`${words.slice(0, words[0] === IMAGE ? 2 : 1).join(' ')} is not a verb of dmloop`)

function version(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(manifest) as { version: string }).version
}

async function runVerb(
  verb: Verb,
  words: readonly string[],
  screen: Screen,
  surroundings: Surroundings,
  library: Library,
): Promise<number> {
  const { operands, values } = parseArguments(words, verb.options)
  const { help, json, ...own } = values
  if (help === true) {
    screen.print(verbHelp(verb))
    return STATUS.done
  }
  checkCount(verb, operands)
  return await untilSignal(verb, (signal) =>
    verb.run({
      verb: verb.name,
      operands,
      values: own,
      json: json === true,
      screen,
      stdin: () => surroundings.stdin,
      dmloop: library,
      signal,
    }),
  )
}

function checkCount(
  { operands: expected, count: [least, most] }: Verb,
  { length }: string[],
): void {
  if (length < least) throw new UsageError(`${expected} is missing`)
  if (length > most) throw new UsageError(`too many operands; expected ${expected}`)
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/**
 * Aborts a call when a signal comes, so that it undoes what it has begun. Another signal ends the process: a
 * later call finds and undoes what is left then.
 */
async function untilSignal<T>(
  { whenStopped }: Verb,
  run: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  if (whenStopped === undefined) return await run(controller.signal)
  const stop = (signal: NodeJS.Signals): void => {
    end()
    controller.abort(new Interrupted(signal, whenStopped))
  }
  const end = (): void => {
    for (const signal of SIGNALS) process.off(signal, stop)
  }
  for (const signal of SIGNALS) process.on(signal, stop)
  try {
    return await run(controller.signal)
  } finally {
    end()
  }
}

/** Whether JSON was asked for, in words that need not make sense. */
function wantsJson(words: readonly string[]): boolean {
  const { flag, short } = optionOf('json')
  const end = words.indexOf('--')
  const options = end === -1 ? words : words.slice(0, end)
  return options.includes(`--${flag}`) || options.includes(`-${short}`)
}

function reportFailure(
  error: unknown,
  verb: Verb | undefined,
  words: readonly string[],
  screen: Screen,
): void {
  const document: FailureJson = { error: errorJson(error) }
  if (wantsJson(words)) screen.print(jsonText(document))
  else screen.warn(failureText(error, verb?.name))
}
