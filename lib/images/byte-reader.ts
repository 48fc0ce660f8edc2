// Reads a source of blocks by the byte, and copies no more than what spans two of them.
import type { ByteSource } from './byte-source.js'

const NOTHING = new Uint8Array(0)

export class ByteReader {
  readonly #source: ByteSource
  #block: Uint8Array = NOTHING
  #position = 0

  constructor(source: ByteSource) {
    this.#source = source
  }

  /** Bytes that have been read. */
  get position(): number {
    return this.#position
  }

  /** The next bytes, which stay unread; fewer than `count` only at the end. A few bytes, and early. */
  async peek(count: number): Promise<Uint8Array> {
    while (this.#block.length < count) {
      const next = await this.#source.next()
      if (!next) break
      this.#block = this.#block.length === 0 ? next : Buffer.concat([this.#block, next])
    }
    return this.#block.subarray(0, count)
  }

  /** Whether all bytes have been read. */
  async ended(): Promise<boolean> {
    return (await this.peek(1)).length === 0
  }

  /** Up to `limit` bytes in one piece, valid until the next call; undefined at the end. */
  async some(limit: number): Promise<Uint8Array | undefined> {
    if (await this.ended()) return undefined
    const piece = this.#block.subarray(0, limit)
    // Nothing is kept of a block that the source takes back.
    this.#block = piece.length === this.#block.length ? NOTHING : this.#block.subarray(piece.length)
    this.#position += piece.length
    return piece
  }

  /** A copy of the next bytes; fewer than `count` only at the end. */
  async take(count: number): Promise<Buffer> {
    const taken = Buffer.alloc(count)
    let length = 0
    while (length < count) {
      const piece = await this.some(count - length)
      if (!piece) break
      taken.set(piece, length)
      length += piece.length
    }
    return taken.subarray(0, length)
  }

  /** Passes over bytes; false: there were fewer. */
  async skip(count: number): Promise<boolean> {
    let left = count
    while (left > 0) {
      const piece = await this.some(left)
      if (!piece) return false
      left -= piece.length
    }
    return true
  }
}
