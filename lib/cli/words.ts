// The library's messages speak of its functions and options; those of the command have other words.
import { OPTIONS } from './options.js'

const VERBS: Readonly<Record<string, string>> = {
  planFile: 'plan',
  mapFile: 'map',
  openMapping: 'list',
  listMappings: 'list',
  unmap: 'unmap',
  verify: 'verify',
  releaseFile: 'release',
  wrapDevice: 'wrap',
  provisionFile: 'provision',
  createImage: 'create',
}

const flags = new Map<string, string>(
  Object.entries(OPTIONS).map(([key, { flag }]) => [key, `--${flag}`]),
)
const keys = [...flags.keys()].join('|')

/** `readOnly: true`, `holes: ‘zero’`, `{ deferred: true }` */
const SETTING = new RegExp(`(?:\\{ )?\\b(${keys}): (?:true|[‘'](\\w+)[’'])(?: \\})?`, 'g')
/** `options.blockSize`, and the option \`name\` */
const MENTION = new RegExp(`\\boptions\\.(${keys})\\b|\`(${keys})\``, 'g')
/** `unmap` and `verify` are words of their own without parentheses. */
const CALL = new RegExp(
  `\\b(${Object.keys(VERBS).join('|')})\\(\\)|\\b([a-z]+(?:File|Mappings?|Device|Image))\\b`,
  'g',
)

/** A message of the library as the command says it. */
export const inCommandWords = (message: string): string =>
  message
    .replace(SETTING, (_, key: string, value?: string) => {
      const flag = flags.get(key) ?? key
      return value === undefined ? flag : `${flag}=${value}`
    })
    .replace(
      MENTION,
      (_, option?: string, quoted?: string) => flags.get(option ?? quoted ?? '') ?? _,
    )
    .replace(CALL, (word, called?: string, named?: string) => {
      const verb = VERBS[called ?? named ?? '']
      return verb === undefined ? word : `dmloop ${verb}`
    })
