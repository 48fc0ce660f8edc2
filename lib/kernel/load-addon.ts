// Loads the native addon: the one that was built here, or else the prebuilt one for this kind of system.
import bindings from 'bindings'
import { familySync } from 'detect-libc'

/** The directory in prebuilds/ for this system; native/prebuilds.mjs makes them. */
const prebuilt = (): string => `${process.platform}-${process.arch}-${familySync() ?? 'glibc'}`

export const loadAddon = (): unknown =>
  bindings({
    bindings: 'dmloop',
    try: [
      ['module_root', 'build', 'Release', 'bindings'],
      ['module_root', 'prebuilds', prebuilt(), 'bindings'],
    ],
  })
