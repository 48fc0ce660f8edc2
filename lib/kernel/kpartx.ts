// How kpartx names the devices of partitions: by that, kpartx, lsblk and udev's rules know them.

const UUID = /^part(\d+)-(.+)$/

/** The UUID of the device of a partition of the device with a UUID. */
export const partitionUuid = (number: number, parent: string): string => `part${number}-${parent}`

/** A partition's number, and the UUID of the device that it is part of; undefined for other devices. */
export function parsePartitionUuid(uuid: string): { number: number; parent: string } | undefined {
  const [, number, parent] = UUID.exec(uuid) ?? []
  return parent === undefined ? undefined : { number: Number(number), parent }
}

/** The name of a partition of a device: disk1, but disk2p1. */
export const partitionName = (device: string, number: number): string =>
  `${device}${/\d$/.test(device) ? 'p' : ''}${number}`
