// Boot files hold where images were when they were made.
import { existsSync } from 'node:fs'
import type { Call } from '../verb.js'

/** Where they are on the machine that they are for. */
const FOLDER = '/etc/dmloop/boot'

/** Says that they are to be made again after a change to an image, where this machine has any. */
export function remindOfBootFiles({ json, screen }: Pick<Call, 'json' | 'screen'>): void {
  if (json || !existsSync(FOLDER)) return
  screen.warn('dmloop: the boot files are to be made again: dmloop help image boot\n')
}
