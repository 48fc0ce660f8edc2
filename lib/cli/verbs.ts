// The verbs in the order in which help has them.
import { create } from './create.js'
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

export const findVerb = (name: string): Verb | undefined => VERBS.find((verb) => verb.name === name)
