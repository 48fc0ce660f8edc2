// What the kinds of guest kernel have in common.

export interface GuestOptions {
  /** The number of processors, under qemu; 0: User-Mode Linux, which has one. */
  smp: number
  /** The version of Debian's kernel under qemu, as in 6.1. */
  kernel: string
  /** The guest's memory, as in 512M or 2G. */
  memory: string
  /** The size of each of the two ram disks, in MiB. */
  disk: number
  /** Whether systemd-udevd runs, with the distribution's rules. */
  udev: boolean
  /** Kernel modules to load besides dm-mod, dm-zero, brd and loop. */
  modules: string[]
  /** Seconds until the guest is stopped; 0: never. */
  timeout: number
  /** Environment variables for the command, besides those of `PASSED_ON`. */
  env: Record<string, string>
}

export const GUEST_DEFAULTS: GuestOptions = {
  smp: 0,
  kernel: '6.1',
  memory: '2G',
  disk: 256,
  udev: false,
  modules: [],
  timeout: 0,
  env: {},
}

/** What a guest of either kind is started with. */
export interface Boot {
  options: GuestOptions
  /** The folder of unpacked packages, if it is in use. */
  layer: string | undefined
  /** The host directory through which guest and host exchange files; `init` is in it. */
  directory: string
  /** What init.sh reads from its environment, where the kernel puts it. */
  parameters: string[]
}

/**
 * A kind of guest kernel. Its command has the kernel's log as descriptor 3, and what the guest's
 * command prints goes to descriptors 1 and 2; it ends when the guest has stopped.
 */
export interface Kernel {
  /** The programs it needs, and the Debian packages that bring them. */
  programs: Record<string, string>
  command: (boot: Boot) => string[]
}
