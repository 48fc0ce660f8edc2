// Loads the native addon: the one that was built here, or else the prebuilt one for this kind of system.
import bindings from 'bindings'
import { familySync } from 'detect-libc'

const BUILT = ['module_root', 'build', 'Release', 'bindings']

/** The directory in prebuilds/ for this system; native/prebuilds.mjs makes them. */
const prebuilt = (): string[] => {
  const system = `${process.platform}-${process.arch}-${familySync() ?? 'glibc'}`
  return ['module_root', 'prebuilds', system, 'bindings']
}

export function loadAddon(): unknown {
  try {
    return bindings({ bindings: 'dmloop', try: [BUILT] })
  } catch (error) {
    // It is there, and cannot be loaded.
    if (!(error instanceof Error) || !('tries' in error)) throw error
    // Only now: a worker that ends just after detect-libc has looked leaves its descriptor open.
    return bindings({ bindings: 'dmloop', try: [BUILT, prebuilt()] })
  }
}
