// Unpacks gzip (RFC 1952) with zlib, which works in a thread of libuv's pool.
import { finished } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { untilAborted, type ByteSource } from './byte-source.js'
import type { PackedInput } from './packed-input.js'

/** Bytes of a piece of what is unpacked. */
const OUTPUT = 1 << 20

export class GunzipSource implements ByteSource {
  readonly size = undefined
  readonly #input: PackedInput
  readonly #signal: AbortSignal | undefined
  readonly #gunzip = createGunzip({ chunkSize: OUTPUT })
  readonly #output = this.#gunzip[Symbol.asyncIterator]() as AsyncIterator<Uint8Array, void>
  /** zlib gives and takes no more: all is unpacked, or something is wrong. */
  readonly #ended: Promise<void>
  readonly #feeding: Promise<void>
  /** What is wrong with the input, other than what zlib says. */
  #failure: { error: unknown } | undefined

  constructor(input: PackedInput, signal: AbortSignal | undefined) {
    this.#input = input
    this.#signal = signal
    this.#ended = new Promise((resolve) => {
      finished(this.#gunzip, { writable: false }, () => resolve())
    })
    this.#feeding = this.#feed().catch((error: unknown) => {
      this.#failure = { error }
      this.#gunzip.destroy()
    })
  }

  async next(): Promise<Uint8Array | undefined> {
    try {
      const step = await untilAborted(this.#output.next(), this.#signal)
      if (step.done !== true) return step.value
      await untilAborted(this.#feeding, this.#signal)
    } catch (error) {
      throw this.#failure ? this.#failure.error : this.#explain(error)
    }
    if (this.#failure) throw this.#failure.error
    return undefined
  }

  close(): Promise<void> {
    this.#gunzip.destroy()
    return Promise.resolve()
  }

  async #feed(): Promise<void> {
    for (let piece = await this.#input.next(); piece; piece = await this.#input.next()) {
      const before = this.#gunzip.bytesWritten
      await Promise.race([this.#write(piece), this.#ended])
      if (this.#gunzip.errored) return
      const used = this.#gunzip.bytesWritten - before
      // zlib goes from member to member, and ends at a zero after one.
      if (used < piece.length) return this.#checkPadding(piece, used)
    }
    this.#gunzip.end()
  }

  /** Resolves when zlib has taken the piece; it does not say so when it ends within. */
  #write(piece: Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      this.#gunzip.write(piece, () => resolve())
    })
  }

  /** Zeros after the last member are padding, as gzip(1) has it, and anything else is not. */
  async #checkPadding(first: Uint8Array, used: number): Promise<void> {
    let start = used
    for (let piece: Uint8Array | undefined = first; piece; piece = await this.#input.next()) {
      const index = piece.findIndex((byte, index) => index >= start && byte !== 0)
      if (index >= 0) throw this.#input.invalid('there is something after its end', index)
      start = 0
    }
  }

  #explain(error: unknown): unknown {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'Z_BUF_ERROR') return this.#input.truncated()
    const isZlib = typeof code === 'string' && code.startsWith('Z_')
    return isZlib ? this.#input.invalid((error as Error).message) : error
  }
}
