// The verbs in the order in which help has them.
import { create } from './create.js'
import { IMAGE_VERBS } from './image/verbs.js'
import { list } from './list.js'
import { map } from './map.js'
import { plan } from './plan.js'
import { provision } from './provision.js'
import { release } from './release.js'
import { unmap } from './unmap.js'
import type { Verb } from './verb.js'
import { verify } from './verify.js'
import { wrap } from './wrap.js'

export const VERBS: readonly Verb[] = [
  plan,
  map,
  unmap,
  list,
  verify,
  release,
  wrap,
  provision,
  create,
]

/** What the names of the verbs of image stores start with. */
export const IMAGE = 'image'

/** The verb that a command line starts with, of one word or of two, and the words after it. */
export function splitVerb(words: readonly string[]): { verb: Verb | undefined; rest: string[] } {
  for (const count of [2, 1]) {
    const name = words.slice(0, count).join(' ')
    const verb = [...VERBS, ...IMAGE_VERBS].find((each) => each.name === name)
    if (verb) return { verb, rest: words.slice(count) }
  }
  return { verb: undefined, rest: words.slice(1) }
}
