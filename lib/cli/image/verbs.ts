// The verbs of image stores in the order in which help has them.
import type { Verb } from '../verb.js'
import { disable, remove, removeDisabled, resize } from './change.js'
import { create } from './create.js'
import { boot, exportLp, importLp } from './export.js'
import { list } from './list.js'
import { map, mapAll, unmap } from './map.js'
import { validate } from './validate.js'

export const IMAGE_VERBS: readonly Verb[] = [
  create,
  list,
  map,
  unmap,
  mapAll,
  validate,
  resize,
  remove,
  disable,
  removeDisabled,
  boot,
  exportLp,
  importLp,
]
