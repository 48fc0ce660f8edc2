// What is to be unpacked.
import { badImage, type Origin } from './bad-image.js'
import type { ByteReader } from './byte-reader.js'

/** Bytes that are unpacked at a time: few, because a position in an error is that of such a piece. */
const PIECE = 64 << 10

/** A compressed input, piece by piece, and what is wrong with it. */
export class PackedInput {
  readonly #reader: ByteReader
  readonly #origin: Origin
  readonly #format: string
  /** Where the last piece starts. */
  #start = 0

  constructor(reader: ByteReader, origin: Origin, format: string) {
    this.#reader = reader
    this.#origin = origin
    this.#format = format
  }

  /** Valid until the next call; undefined at the end. */
  async next(): Promise<Uint8Array | undefined> {
    this.#start = this.#reader.position
    return this.#reader.some(PIECE)
  }

  truncated(): Error {
    return this.#bad(this.#reader.position, 'ends too early')
  }

  /** The last piece, or what is at that byte of it, cannot be unpacked. */
  invalid(reason: string, offset = 0): Error {
    return this.#bad(this.#start + offset, `cannot be unpacked (${reason})`)
  }

  #bad(position: number, found: string): Error {
    return badImage(this.#origin, position, `is compressed by ${this.#format} and ${found}`)
  }
}
