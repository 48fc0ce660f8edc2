// What a verb of the command is: what help and the documents show of it, and what it does.
import type { Readable } from 'node:stream'
import type * as dmloop from '../index.js'
import type { OptionKey, Values } from './options.js'
import type { Screen } from './screen.js'

/** The functions of the library; a test may have its own. */
export type Library = Pick<
  typeof dmloop,
  | 'planFile'
  | 'mapFile'
  | 'openMapping'
  | 'listMappings'
  | 'releaseFile'
  | 'wrapDevice'
  | 'provisionFile'
  | 'createImage'
  | 'ImageStore'
>

/** What a verb works with. */
export interface Call<Key extends OptionKey = never> {
  verb: string
  operands: string[]
  values: Values<Key>
  json: boolean
  screen: Screen
  /** Opened only by who needs it. */
  stdin: () => Readable
  dmloop: Library
  /** Aborted by SIGINT, SIGTERM and SIGHUP, if the verb can be stopped. */
  signal: AbortSignal
}

interface Description<Key extends OptionKey> {
  name: string
  /** As help shows them. */
  operands: string
  /** How many there may be. */
  count: readonly [least: number, most: number]
  /** One line. */
  summary: string
  /** What else there is to know. */
  details: string
  examples: readonly string[]
  options: readonly Key[]
  /**
   * What there is to know when a signal has stopped it. A verb without this is ended by the signal at once, as
   * any process: it changes nothing, or what the library finishes later.
   */
  whenStopped?: string
}

export interface Verb extends Description<OptionKey> {
  /** Resolves to the exit status. */
  run(call: Call<OptionKey>): Promise<number>
}

/** A verb whose `run` has the values of its own options only. */
export const defineVerb = <Key extends OptionKey>(
  verb: Description<Key> & { run(call: Call<Key>): Promise<number> },
): Verb => verb

/** The options of a long call: how to stop it, and whom to tell how far it is. */
export function longCall(
  { screen, signal }: Pick<Call, 'screen' | 'signal'>,
  what: string,
): { signal: AbortSignal; onProgress?: dmloop.ProgressListener } {
  const onProgress = screen.progress(what)
  return onProgress === undefined ? { signal } : { signal, onProgress }
}
