import type { StoredImage } from '../../index.js'
import { jsonText, type ImagesJson } from '../json.js'
import { STATUS } from '../status.js'
import { alignColumns, printable, shortBytes } from '../text.js'
import { defineVerb } from '../verb.js'
import { imageJson, openStore } from './store.js'

export const list = defineVerb({
  name: 'image list',
  operands: 'DIRECTORY [NAME ...]',
  count: [1, Infinity],
  summary: 'list the images of a store, or those that are named',
  details: 'MAPPED says whether an image has a device now. DISABLED images are deleted next.',
  examples: ['dmloop image list /srv/images'],
  options: ['bytes', 'noheadings', 'metadata'],
  async run(call) {
    const { operands, values, json, screen } = call
    const store = await openStore(call)
    const names = operands.slice(1)
    const images =
      names.length === 0
        ? await store.list()
        : await Promise.all(names.map((name) => store.get(name)))
    const listed: { image: StoredImage; mapped: boolean }[] = []
    for (const image of images) {
      listed.push({ image, mapped: await store.isMapped(image.name) })
    }
    const document: ImagesJson = {
      images: listed.map(({ image, mapped }) => ({ ...imageJson(image), mapped })),
    }
    if (json) {
      screen.print(jsonText(document))
      return STATUS.done
    }
    const size = values.bytes ? String : shortBytes
    const rows = document.images.map((each) => [
      ...[each.name, size(each.size), flag(each.readOnly), flag(each.mapped), flag(each.disabled)],
      ...[String(each.segmentCount), each.files.map(printable).join(', ')],
    ])
    if (rows.length > 0) screen.print(alignColumns(values.noheadings ? rows : [HEADINGS, ...rows]))
    return STATUS.done
  },
})

const HEADINGS = ['NAME', 'SIZE', 'RO', 'MAPPED', 'DISABLED', 'SEGMENTS', 'FILES']

const flag = (value: boolean): string => (value ? '1' : '0')
