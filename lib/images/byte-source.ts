// Where the bytes of an image come from: a file or device, or a stream.
import { open, type FileHandle } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import { invalidType, invalidValue } from '../kernel/errors.js'
import { deviceName, deviceSize, splitDevice } from '../kernel/sysfs.js'

/** Blocks of bytes in their order. */
export interface ByteSource {
  /** Bytes, where they are known before the source is read. */
  readonly size: number | undefined
  /** The next bytes, at least one, valid until the next call; undefined at the end. */
  next(): Promise<Uint8Array | undefined>
  /** Lets go of the source, read to its end or not. */
  close(): Promise<void>
}

/** Bytes of a file that are read at a time; there are two such blocks. */
const BLOCK = 1 << 20

/** The outcome of a promise, or the signal's reason as soon as it is aborted. */
export async function untilAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  if (!signal) return promise
  // An abort comes first, and whatever the promise does then is nobody's business.
  promise.catch(() => undefined)
  signal.throwIfAborted()
  let stop = (): void => undefined
  const aborted = new Promise<void>((resolve) => {
    stop = resolve
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    const outcome = await Promise.race([promise, aborted])
    signal.throwIfAborted()
    // Without an abort, the promise was first.
    return outcome as T
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

/** Opens the source of an image: a path, or a stream that nobody has read to its end. */
export async function openSource(
  from: string | Readable,
  signal: AbortSignal | undefined,
): Promise<ByteSource> {
  signal?.throwIfAborted()
  return typeof from === 'string' ? FileSource.open(from, signal) : new StreamSource(from, signal)
}

/** A file, a block device or a pipe with a name; while one block is used, the next one is read. */
class FileSource implements ByteSource {
  readonly size: number | undefined
  readonly #handle: FileHandle
  readonly #signal: AbortSignal | undefined
  /** What is being read, and into which buffer; the caller of `next` has the other one. */
  #reading: Promise<Uint8Array | undefined>
  #filling = Buffer.allocUnsafeSlow(BLOCK)
  #spare = Buffer.allocUnsafeSlow(BLOCK)
  #closed: Promise<void> | undefined

  static async open(path: string, signal: AbortSignal | undefined): Promise<FileSource> {
    const opening = open(path)
    try {
      const handle = await untilAborted(opening, signal)
      return new FileSource(handle, await sizeOf(handle), signal)
    } catch (error) {
      // Opening a named pipe waits for somebody to write to it, maybe for ever.
      opening.then((handle) => handle.close()).catch(() => undefined)
      throw error
    }
  }

  constructor(handle: FileHandle, size: number | undefined, signal: AbortSignal | undefined) {
    this.#handle = handle
    this.size = size
    this.#signal = signal
    this.#reading = this.#read(this.#filling)
  }

  async next(): Promise<Uint8Array | undefined> {
    const block = await untilAborted(this.#reading, this.#signal)
    if (!block) return undefined
    ;[this.#filling, this.#spare] = [this.#spare, this.#filling]
    this.#reading = this.#read(this.#filling)
    return block
  }

  /** Fills a block, as far as the file goes. */
  #read(block: Buffer): Promise<Uint8Array | undefined> {
    const reading = this.#fill(block)
    // It is told to whoever asks for the block, if anybody does.
    reading.catch(() => undefined)
    return reading
  }

  async #fill(block: Buffer): Promise<Uint8Array | undefined> {
    let length = 0
    while (length < BLOCK && !this.#closed) {
      const { bytesRead } = await this.#handle.read(block, length, BLOCK - length, null)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return length > 0 ? block.subarray(0, length) : undefined
  }

  async close(): Promise<void> {
    this.#closed ??= this.#handle.close()
    // Of a file that was only read, an error says nothing.
    const closed = this.#closed.catch(() => undefined)
    // It is closed after the read that goes on, which may never end if it is a pipe's.
    if (this.size !== undefined && this.#signal?.aborted !== true) await closed
  }
}

/** Bytes; undefined where only the end tells: pipes, and the files of /proc and /sys, which say 0. */
async function sizeOf(handle: FileHandle): Promise<number | undefined> {
  const stats = await handle.stat()
  const { major, minor } = splitDevice(stats.rdev)
  const size = stats.isBlockDevice() ? await deviceSize(deviceName(major, minor)) : stats.size
  return size > 0 && !stats.isDirectory() ? size : undefined
}

class StreamSource implements ByteSource {
  readonly size = undefined
  readonly #stream: Readable
  readonly #chunks: AsyncIterator<unknown, void>
  readonly #signal: AbortSignal | undefined

  constructor(stream: Readable, signal: AbortSignal | undefined) {
    if (stream.readableEncoding !== null) {
      throw invalidType('options.from', 'a stream of bytes', stream.readableEncoding)
    }
    if (stream.errored) throw stream.errored
    if (stream.destroyed || stream.readableEnded) {
      const state = stream.readableEnded ? 'a stream that has ended' : 'a stream that is destroyed'
      throw invalidValue('options.from', 'a stream that can be read', state)
    }
    this.#stream = stream
    this.#chunks = stream[Symbol.asyncIterator]()
    this.#signal = signal
  }

  async next(): Promise<Uint8Array | undefined> {
    for (;;) {
      const step = await untilAborted(this.#chunks.next(), this.#signal)
      if (step.done === true) return undefined
      const { value } = step
      if (!(value instanceof Uint8Array)) {
        throw invalidType('options.from', 'a stream of bytes', value)
      }
      if (value.length > 0) return value
    }
  }

  close(): Promise<void> {
    // Not the iterator's return(), which would wait for the chunk that it has asked for.
    this.#stream.destroy()
    return Promise.resolve()
  }
}
