// Unpacks what gzip, zstd or xz has packed, in another thread and a step at a time: however much a few bytes
// become, only a few pieces of it are held.
import type { Origin } from './bad-image.js'
import type { ByteReader } from './byte-reader.js'
import type { ByteSource } from './byte-source.js'
import { GunzipSource } from './gunzip.js'
import { PackedInput } from './packed-input.js'
import { WorkerSource } from './worker-source.js'

const FORMATS = ['gzip', 'zstd', 'xz'] as const

type Compression = (typeof FORMATS)[number]

/** Bytes that are enough to tell a format. */
export const MAGIC_LENGTH = 6

const MAGIC: Record<Compression, (start: Buffer) => boolean> = {
  // RFC 1952, section 2.3.1; 8 is deflate, the only method there is.
  gzip: (start) => startsWith(start, [0x1f, 0x8b, 0x08]),
  // RFC 8878, section 3.1: a frame, or one to skip.
  zstd: (start) =>
    startsWith(start, [0x28, 0xb5, 0x2f, 0xfd]) ||
    (startsWith(start.subarray(1), [0x2a, 0x4d, 0x18]) && (start[0] ?? 0) >> 4 === 5),
  // xz-file-format.txt, section 2.1.1.1.
  xz: (start) => startsWith(start, [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]),
}

const startsWith = (bytes: Uint8Array, magic: readonly number[]): boolean =>
  magic.every((byte, index) => bytes[index] === byte)

/** How something is compressed, by its first bytes. */
export function compressionOf(start: Uint8Array): Compression | undefined {
  return FORMATS.find((format) => MAGIC[format](Buffer.from(start)))
}

/** What a compressed input unpacks to. Closing it does not close the input. */
export function decompress(
  format: Compression,
  input: ByteReader,
  origin: Origin,
  signal: AbortSignal | undefined,
): ByteSource {
  const packed = new PackedInput(input, origin, format)
  return format === 'gzip'
    ? new GunzipSource(packed, signal)
    : new WorkerSource(format, packed, signal)
}
