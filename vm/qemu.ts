// Debian's own kernel with several processors, in qemu's emulation: works without KVM.
import { basename } from 'node:path'
import { debianKernel } from './debian-kernel.js'
import type { Kernel } from './kernel.js'
import { programCommand } from './packages.js'

/** A host directory that the guest mounts by a name, which is at most 31 characters long. */
function share(path: string, tag: string, readOnly: boolean): string[] {
  const settings = [
    'local',
    // qemu reads a doubled comma as one that belongs to the path.
    `path=${path.replaceAll(',', ',,')}`,
    `mount_tag=${tag}`,
    'security_model=none',
    // Files of several filesystems may have the same inode number.
    'multidevs=remap',
    ...(readOnly ? ['readonly=on'] : []),
  ]
  return ['-virtfs', settings.join(',')]
}

/** A console of the guest whose output goes to a descriptor: a socket, as Node's pipes are. */
const consoleTo = (descriptor: number): string[] => [
  ...['-chardev', `socket,id=fd${descriptor},fd=${descriptor}`],
  ...['-device', `virtconsole,chardev=fd${descriptor}`],
]

export const qemu: Kernel = {
  programs: { 'qemu-system-x86_64': 'qemu-system-x86', xz: 'xz-utils', zstd: 'zstd' },
  command: ({ options, layer, directory, parameters }) => {
    const kernel = debianKernel(options.kernel, layer)
    const commandLine = [
      'console=ttyS0',
      'quiet',
      // A panic ends qemu, with -no-reboot, as it ends User-Mode Linux.
      'panic=-1',
      // Nothing here is worth protecting, and an emulated processor pays dearly for it.
      'mitigations=off',
      // The emulated processors share one counter, which the kernel cannot know. What it takes in its place is a
      // device, which the processors wait for one after another.
      'tsc=reliable',
      'clocksource=tsc',
      'DMLOOP_VM_OUT=hvc0',
      'DMLOOP_VM_ERR=hvc1',
      `DMLOOP_VM_KERNEL=${kernel.modules}`,
      ...parameters,
    ]
    return [
      ...programCommand('qemu-system-x86_64', layer),
      ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
      ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', String(options.smp)],
      ...['-m', options.memory],
      ...['-kernel', kernel.image, '-initrd', kernel.initramfs],
      ...['-append', commandLine.join(' ')],
      ...['-serial', 'file:/dev/fd/3'],
      ...['-device', 'virtio-serial', ...consoleTo(1), ...consoleTo(2)],
      ...share('/', 'host', true),
      ...share(directory, basename(directory), false),
      ...(layer ? share(layer, basename(layer), true) : []),
    ]
  },
}
