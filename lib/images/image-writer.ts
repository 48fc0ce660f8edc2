// Writes the content of an image in its order, in large blocks past the page cache, one while the next is filled.
import { setImmediate } from 'node:timers/promises'
import { createHash, type Hash } from 'node:crypto'
import { native, type WriteBuffer } from '../kernel/native.js'
import type { Piece } from './content.js'
import type { ImageFile } from './image-file.js'

/** Bytes of a buffer. With 4 MiB it was slower (bench/create.ts). */
const BLOCK = 2 << 20
/** Bytes of zeros that are written between two checks of the signal. */
const ZERO_STEP = 64 << 20
/** Bytes that are hashed between two turns of the event loop. */
const HASH_STEP = 1 << 20

/** A file of the image, opened when the content reaches it. */
export interface ImageFiles {
  /** Bytes of each file but the last. */
  fileSize: number
  /** A file with space for its first bytes. */
  fileFor: (index: number, size: number) => Promise<ImageFile>
}

interface Slot {
  buffer: WriteBuffer
  bytes: Uint8Array
  /** What was last started with it. */
  written: Promise<void>
}

export class ImageWriter {
  readonly #files: ImageFiles
  readonly #signal: AbortSignal | undefined
  readonly #report: (done: number) => void
  readonly #hash: Hash | undefined
  readonly #slots: [Slot, Slot] = [newSlot(), newSlot()]
  /** The slot that is being filled: how much it has, and where in the image it starts. */
  #current = 0
  #filled = 0
  #start = 0
  #failure: { error: unknown } | undefined

  constructor(files: ImageFiles, { hashed, signal, report }: WriterOptions) {
    this.#files = files
    this.#signal = signal
    this.#report = report
    this.#hash = hashed ? createHash('sha256') : undefined
  }

  /** Bytes of the image so far. */
  get position(): number {
    return this.#start + this.#filled
  }

  async write(piece: Piece): Promise<void> {
    if ('data' in piece) await this.#writeData(piece.data)
    else if (piece.fill.some((byte) => byte !== 0)) await this.#writePattern(piece)
    else await this.writeZeros(piece.length)
  }

  async #writeData(data: Uint8Array): Promise<void> {
    await this.#update(data)
    for (let rest = data; rest.length > 0;) {
      const room = await this.#room()
      const part = rest.subarray(0, room.length)
      room.set(part)
      await this.#advance(part.length)
      rest = rest.subarray(part.length)
    }
  }

  /** The parts are multiples of 4, as is the pattern: all other sizes here are. */
  async #writePattern({ fill, length }: { fill: Uint8Array; length: number }): Promise<void> {
    for (let rest = length; rest > 0;) {
      const room = await this.#room()
      const part = Buffer.from(room.buffer, room.byteOffset, Math.min(rest, room.length))
      part.fill(fill)
      await this.#update(part)
      await this.#advance(part.length)
      rest -= part.length
    }
  }

  async writeZeros(length: number): Promise<void> {
    for (let rest = length; rest > 0;) {
      const room = await this.#room()
      if (this.#filled === 0 && rest >= room.length) {
        const step = Math.min(ZERO_STEP, this.#leftInFile(), Math.floor(rest / BLOCK) * BLOCK)
        const part = step === 0 ? room.length : step
        await this.#updateZeros(part)
        const { file, offset } = await this.#place(part)
        await file.writeZeros(offset, part)
        this.#start += part
        this.#progress()
        rest -= part
      } else {
        const part = room.subarray(0, rest)
        part.fill(0)
        await this.#update(part)
        await this.#advance(part.length)
        rest -= part.length
      }
    }
  }

  /** Writes what is left, and waits until all is written. */
  async end(): Promise<void> {
    if (this.#filled > 0) await this.#flush()
    await this.drain()
    this.#throwFailure()
  }

  /** Waits until nothing is being written any more, however it ended. */
  async drain(): Promise<void> {
    await Promise.all(this.#slots.map(({ written }) => written))
  }

  /** The SHA-256 so far, in hexadecimal digits; undefined where it is not asked for. */
  digest(): string | undefined {
    return this.#hash?.copy().digest('hex')
  }

  /** The free part of the current slot; never empty. */
  async #room(): Promise<Uint8Array> {
    this.#signal?.throwIfAborted()
    const slot = this.#slots[this.#current] as Slot
    await slot.written
    this.#throwFailure()
    return slot.bytes.subarray(this.#filled, Math.min(BLOCK, this.#leftInFile()))
  }

  /** Bytes from the start of the current slot to the end of its file. */
  #leftInFile(): number {
    const { fileSize } = this.#files
    return fileSize - (this.#start % fileSize)
  }

  async #advance(bytes: number): Promise<void> {
    this.#filled += bytes
    if (this.#filled === Math.min(BLOCK, this.#leftInFile())) await this.#flush()
  }

  /** Starts to write the current slot; the other one may still be being written. */
  async #flush(): Promise<void> {
    const slot = this.#slots[this.#current] as Slot
    const length = this.#filled
    const { file, offset } = await this.#place(length)
    slot.written = file.write(slot.buffer, length, offset).catch((error: unknown) => {
      this.#failure ??= { error }
    })
    this.#current = 1 - this.#current
    this.#start += length
    this.#filled = 0
    this.#progress()
  }

  /** Where in which file the current slot starts; there is space for so many bytes. */
  async #place(length: number): Promise<{ file: ImageFile; offset: number }> {
    const { fileSize } = this.#files
    const index = Math.floor(this.#start / fileSize)
    const offset = this.#start - index * fileSize
    return { file: await this.#files.fileFor(index, offset + length), offset }
  }

  #progress(): void {
    this.#report(this.#start)
  }

  #throwFailure(): void {
    if (this.#failure) throw this.#failure.error
  }

  async #update(bytes: Uint8Array): Promise<void> {
    if (!this.#hash) return
    for (let at = 0; at < bytes.length; at += HASH_STEP) {
      this.#hash.update(bytes.subarray(at, at + HASH_STEP))
      if (at > 0) await setImmediate()
    }
  }

  async #updateZeros(length: number): Promise<void> {
    if (!this.#hash) return
    for (let rest = length; rest > 0; rest -= HASH_STEP) {
      this.#hash.update(ZEROS.subarray(0, rest))
      await setImmediate()
    }
  }
}

const ZEROS = new Uint8Array(HASH_STEP)

export interface WriterOptions {
  /** Whether the SHA-256 is asked for. */
  hashed: boolean
  signal: AbortSignal | undefined
  /** Called with the bytes of the image that are written, or about to be. */
  report: (done: number) => void
}

const newSlot = (): Slot => ({ ...native.newWriteBuffer(BLOCK), written: Promise.resolve() })
