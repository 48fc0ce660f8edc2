// The filesystem of an ImageStore in tests, on a wrapper of the first ram disk; and a reboot.
import { wrapDevice } from 'dmloop'
import { deviceNames, sh } from './lab.js'

export const HOST = '/tmp/host'
export const METADATA = '/tmp/metadata'

export async function mount(disk = '/dev/ram0'): Promise<void> {
  if (!deviceNames().includes('host')) await wrapDevice(disk, { name: 'host' })
  sh(`mount /dev/mapper/host ${HOST}; mkdir -p ${HOST}/images`)
}

/** What a reboot leaves: the disks. */
export function reboot(): void {
  sh(`if mountpoint -q ${HOST}; then umount ${HOST}; fi
    for device in $(dmsetup ls | grep -v '^No' | cut -f1 | sort -r); do
    dmsetup remove --retry $device; done
    rm -rf /run/dmloop; echo 3 >/proc/sys/vm/drop_caches`)
}
