// What all verbs of images have in common: the store, and how an image is shown.
import type { ImageStore, StoredImage } from '../../index.js'
import type { ImageJson } from '../json.js'
import { forEachTarget } from '../results.js'
import type { Call } from '../verb.js'

/** The store in the directory that is the first operand. */
export const openStore = ({
  operands,
  values: { metadata },
  dmloop,
}: Pick<Call<'metadata'>, 'operands' | 'values' | 'dmloop'>): Promise<ImageStore> =>
  dmloop.ImageStore.open(operands[0] ?? '', metadata === undefined ? {} : { metadata })

/** What a verb does with each of the images that it names, after the directory. */
export async function forEachImage<Result extends object>(
  call: Call<'metadata'>,
  action: (store: ImageStore, name: string) => Promise<Result>,
  show?: (result: Result, name: string) => number,
): Promise<number> {
  const store = await openStore(call)
  const targets = call.operands.slice(1).map((operand) => ({ operand }))
  return await forEachTarget(call, targets, ({ operand }) => action(store, operand), show)
}

export const imageJson = (image: StoredImage): ImageJson => ({
  name: image.name,
  size: image.size,
  readOnly: image.readOnly,
  partitions: image.partitions,
  disabled: image.disabled,
  segmentCount: image.segmentCount,
  files: [...image.files],
})
