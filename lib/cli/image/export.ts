import { UsageError } from '../arguments.js'
import { jsonText, type CreateJson, type DoneJson, type ImagesMadeJson } from '../json.js'
import { STATUS } from '../status.js'
import { defineVerb } from '../verb.js'
import { imageJson, openStore } from './store.js'

export const boot = defineVerb({
  name: 'image boot',
  operands: 'DIRECTORY',
  count: [1, 1],
  summary: 'write the files that have all images mapped at boot',
  details:
    'By sh and dmsetup alone: the wrapper, the images, their partitions. Prints the files; the initramfs is to be made again afterwards, and all of this after an image was made, resized or deleted.',
  examples: [
    'dmloop image boot --for=initramfs-tools /srv/images && update-initramfs -u',
    'dmloop image boot --for=dracut --wrap=root=/dev/sda2 /srv/images',
  ],
  options: ['bootKind', 'wrap', 'root', 'metadata'],
  async run(call) {
    const { bootKind, wrap, root } = call.values
    if (bootKind === undefined) throw new UsageError('--for is missing')
    const options = {
      ...(root === undefined ? {} : { root }),
      ...(wrap === undefined ? {} : { wrappers: [parseWrapper(wrap)] }),
    }
    const files = await (await openStore(call)).exportBoot(bootKind, options)
    const document: CreateJson = { files }
    call.screen.print(call.json ? jsonText(document) : files.map((each) => `${each}\n`).join(''))
    return STATUS.done
  },
})

function parseWrapper(text: string): { name: string; device: string } {
  const [, name, device] = /^([^=]+)=(.+)$/.exec(text) ?? []
  if (name !== undefined && device !== undefined) return { name, device }
  throw new UsageError(`--wrap must be NAME=DEVICE; received ${JSON.stringify(text)}`)
}

export const exportLp = defineVerb({
  name: 'image export-lp',
  operands: 'DIRECTORY FILE',
  count: [2, 2],
  summary: 'write all images as Android’s lp_metadata',
  details:
    'FILE is what Android keeps beside its images. With --super and --super-size it is for the start of a partition with that label, where make-dynpart-mappings and Android look for it; copy it there.',
  examples: ['dmloop image export-lp /srv/images lp_metadata'],
  options: ['superName', 'superSize', 'metadata'],
  async run(call) {
    const { superName: name, superSize: size } = call.values
    if ((name === undefined) !== (size === undefined)) {
      throw new UsageError('--super and --super-size go together')
    }
    const store = await openStore(call)
    const options = name === undefined || size === undefined ? {} : { super: { name, size } }
    await store.exportLpMetadata(call.operands[1] ?? '', options)
    const document: DoneJson = { ok: true }
    if (call.json) call.screen.print(jsonText(document))
    return STATUS.done
  },
})

export const importLp = defineVerb({
  name: 'image import-lp',
  operands: 'DIRECTORY FILE',
  count: [2, 2],
  summary: 'make images of files by Android’s lp_metadata',
  details:
    'The files are in the directory already, as NAME.img, and must be stored where the metadata say. FILE is a file, or a block device that starts with the metadata. Prints the names of the images.',
  examples: ['dmloop image import-lp /srv/images lp_metadata'],
  options: ['slot', 'partitions', 'metadata'],
  async run(call) {
    const { metadata: _, ...options } = call.values
    const store = await openStore(call)
    const images = await store.importLpMetadata(call.operands[1] ?? '', options)
    const document: ImagesMadeJson = { images: images.map(imageJson) }
    const names = images.map(({ name }) => `${name}\n`).join('')
    call.screen.print(call.json ? jsonText(document) : names)
    return STATUS.done
  },
})
