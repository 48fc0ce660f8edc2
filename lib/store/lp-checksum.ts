import { createHash } from 'node:crypto'

/** Bytes of a SHA-256. */
export const CHECKSUM = 32

export const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

/** The SHA-256 of a structure that has it inside, taken as if that field were zeros. */
export function ownChecksum(bytes: Uint8Array, field: number): Buffer {
  const blank = Buffer.from(bytes)
  blank.fill(0, field, field + CHECKSUM)
  return sha256(blank)
}
