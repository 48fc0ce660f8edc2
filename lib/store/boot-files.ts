// The files that make devices at boot, for each kind of initramfs, and for systemd. They need sh and dmsetup only.
import { SECTOR } from '../kernel/segments.js'
import { checkPlan, type BootDevice, type BootPlan } from './boot-plan.js'
import { BOOT_FOLDER, BOOT_SCRIPT } from './boot-script.js'
import { createArgument } from './create-argument.js'

export type { BootPlan } from './boot-plan.js'

export const BOOT_KINDS = ['initramfs-tools', 'dracut', 'systemd', 'dm-mod.create'] as const
export type BootKind = (typeof BOOT_KINDS)[number]

export interface BootFile {
  /** Absolute; for `'dm-mod.create'` the argument is what GRUB adds to its command line. */
  path: string
  mode: number
  content: string | Uint8Array
}

/**
 * The files for a kind of boot. Those for an initramfs take effect when that is made again (update-initramfs,
 * dracut). Throws where a plan contradicts itself, or passes a limit of dm-mod.create.
 */
export function bootFiles(plan: BootPlan, kind: BootKind): BootFile[] {
  checkPlan(plan)
  switch (kind) {
    case 'initramfs-tools':
      return [...commonFiles(plan), ...INITRAMFS_TOOLS]
    case 'dracut':
      return [...commonFiles(plan), ...DRACUT]
    case 'systemd':
      return [...commonFiles(plan), ...SYSTEMD]
    case 'dm-mod.create':
      return [grubFile(createArgument(plan))]
  }
}

const program = (path: string, content: string): BootFile => ({ path, mode: 0o755, content })
const text = (path: string, content: string): BootFile => ({ path, mode: 0o644, content })

const SCRIPT = `${BOOT_FOLDER}/map`

function commonFiles(plan: BootPlan): BootFile[] {
  const ofDevices = plan.devices.flatMap((device, index): BootFile[] => [
    text(`${BOOT_FOLDER}/${index}.table`, tableOf(device)),
    // A block of the image: nobody else's business.
    { path: `${BOOT_FOLDER}/${index}.block`, mode: 0o600, content: device.probe.bytes },
  ])
  return [program(SCRIPT, BOOT_SCRIPT), text(`${BOOT_FOLDER}/plan`, callsOf(plan)), ...ofDevices]
}

/** A table as dmsetup reads it, with indices in place of the disks' numbers. */
function tableOf({ segments }: BootDevice): string {
  let start = 0
  let table = ''
  for (const { length, disk, offset } of segments) {
    table += `${start} ${length} linear ${disk} ${offset}\n`
    start += length
  }
  return table
}

/** The calls of the script's functions: disks, then wrappers, then images with their partitions. */
function callsOf({ disks, wrappers, devices }: BootPlan): string {
  const calls = [
    ...disks.map(({ by, value, size }, index) => [
      'disk',
      index,
      by,
      // device-mapper has the UUID of a logical volume without dashes.
      by === 'LV' ? value.replaceAll('-', '') : value,
      size / SECTOR,
    ]),
    ...wrappers.map(({ name, disk }, index) => ['wrapper', index, name, disk]),
    ...devices.flatMap((device, index) => [imageCall(device, index), ...partCalls(device)]),
  ]
  return calls.map((call) => `${call.join(' ')}\n`).join('')
}

const modeOf = ({ readOnly }: BootDevice): string => (readOnly ? 'readonly' : 'rw')

function imageCall(device: BootDevice, index: number): (string | number)[] {
  const { name, filesystem, identity, probe } = device
  const host = 'wrapper' in filesystem ? `wrapper_${filesystem.wrapper}` : `disk_${filesystem.disk}`
  const { disk, sector } = probe
  const sectors = probe.bytes.length / SECTOR
  // Direct reads are of whole logical blocks, which may be larger than a sector.
  const [unit, block, count] =
    sector % sectors === 0 ? [probe.bytes.length, sector / sectors, 1] : [SECTOR, sector, sectors]
  return ['image', index, name, host, identity, modeOf(device), disk, unit, block, count]
}

const partCalls = (device: BootDevice): (string | number)[][] =>
  device.partitions.map(({ number, name, start, length }) => [
    ...['part', number, name, start, length, modeOf(device)],
  ])

const INITRAMFS_HOOK = `#!/bin/sh
[ "$1" = prereqs ] && { echo; exit; }
. /usr/share/initramfs-tools/hook-functions
manual_add_modules dm_mod
copy_exec /sbin/dmsetup
copy_exec /sbin/blkid
for program in dd cmp readlink sleep; do
  copy_exec "$(command -v "$program")" "${BOOT_FOLDER}/bin/$program"
done
mkdir -p "$DESTDIR${BOOT_FOLDER}"
cp -p ${BOOT_FOLDER}/map ${BOOT_FOLDER}/plan "$DESTDIR${BOOT_FOLDER}/"
for file in ${BOOT_FOLDER}/*.table ${BOOT_FOLDER}/*.block; do
  [ -e "$file" ] && cp -p "$file" "$DESTDIR${BOOT_FOLDER}/"
done
exit 0
`

/** The wait: local-block runs again and again, until the root device is there. */
const initramfsScript = (wait: string): string => `#!/bin/sh
[ "$1" = prereqs ] && { echo; exit; }
${wait}${SCRIPT}
`

const INITRAMFS_TOOLS: BootFile[] = [
  program('/etc/initramfs-tools/hooks/dmloop', INITRAMFS_HOOK),
  program('/etc/initramfs-tools/scripts/local-top/dmloop', initramfsScript('')),
  program('/etc/initramfs-tools/scripts/local-block/dmloop', initramfsScript('DMLOOP_WAIT=0 ')),
]

const DRACUT_MODULE = '/usr/lib/dracut/modules.d/90dmloop'

const DRACUT: BootFile[] = [
  program(
    `${DRACUT_MODULE}/module-setup.sh`,
    `#!/bin/bash
check() {
  require_binaries dmsetup dd cmp blkid || return 1
  return 0
}
depends() {
  echo dm
}
installkernel() {
  instmods dm_mod
}
install() {
  inst_multiple dmsetup dd cmp blkid readlink sleep modprobe
  inst_multiple ${SCRIPT} ${BOOT_FOLDER}/plan
  for file in ${BOOT_FOLDER}/*.table ${BOOT_FOLDER}/*.block; do
    if [ -e "$file" ]; then inst_simple "$file"; fi
  done
  inst_hook initqueue/settled 10 "$moddir/dmloop.sh"
}
`,
  ),
  program(
    `${DRACUT_MODULE}/dmloop.sh`,
    `#!/bin/sh
# Runs again and again, until the root device is there: it need not wait itself.
DMLOOP_WAIT=0 ${SCRIPT}
`,
  ),
]

const SYSTEMD: BootFile[] = [
  text(
    '/etc/systemd/system/dmloop-boot.service',
    `[Unit]
Description=Device-mapper devices of dmloop
DefaultDependencies=no
Wants=systemd-udevd.service local-fs-pre.target
After=systemd-udevd.service systemd-udev-trigger.service systemd-remount-fs.service
Before=local-fs-pre.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=${SCRIPT}
`,
  ),
  // The same as enabling it, without a symbolic link.
  text('/etc/systemd/system/local-fs.target.d/dmloop.conf', '[Unit]\nWants=dmloop-boot.service\n'),
]

const grubFile = (argument: string): BootFile =>
  text(
    '/etc/default/grub.d/dmloop.cfg',
    `GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX ${argument.replace(/["$`\\]/g, '\\$&')}"\n`,
  )
