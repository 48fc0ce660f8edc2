// User-Mode Linux: a kernel with one processor that runs as a process of this machine.
import { symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Kernel } from './kernel.js'
import { programCommand } from './packages.js'

/** For processors with more registers than this kernel knows of; see vm/xstate.cc. */
const XSTATE = fileURLToPath(new URL('../../build/Release/uml-xstate.so', import.meta.url))

export const uml: Kernel = {
  programs: { 'linux.uml': 'user-mode-linux' },
  command: ({ options, layer, directory, parameters }) => {
    const kernel = programCommand('linux.uml', layer)
    // LD_PRELOAD is a list separated by spaces, and the project's path may have some.
    const preload = join(directory, 'xstate.so')
    symlinkSync(XSTATE, preload)
    return [
      'env',
      `LD_PRELOAD=${preload}`,
      ...kernel,
      `mem=${options.memory}`,
      'root=/dev/root',
      'rootfstype=hostfs',
      'hostfs=/',
      'ro',
      'quiet',
      `init=${join(directory, 'init')}`,
      // tty0 is the kernel's own console; tty1 and tty2 are the command's output and error streams.
      'con=null',
      'con0=null,fd:3',
      'con1=null,fd:1',
      'con2=null,fd:2',
      'DMLOOP_VM_OUT=tty1',
      'DMLOOP_VM_ERR=tty2',
      `DMLOOP_VM_KERNEL=${join(dirname(kernel.at(-1) ?? ''), '../lib/uml/modules')}`,
      ...parameters,
    ]
  },
}
