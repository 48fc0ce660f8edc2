// Unpacks zstd (RFC 8878): libzstd's own decoder, as WebAssembly, through its own interface. It goes from frame
// to frame, skips those that are to be skipped, and compares the checksums of frames that have one.
//
// Of node:zlib's decoder, Node 22 ends without an error where a frame is cut, and Node 22 and 24 leave out what
// follows a frame in the same write.
import { ZSTDDecoder } from 'zstddec/stream'
import { DecodeError, type Input } from './decoder.js'

/** The part of zstd.h that the package exports. A `size_t` and a pointer have 32 bits, and results are signed. */
interface Zstd {
  readonly memory: { readonly buffer: ArrayBuffer }
  malloc(size: number): number
  ZSTD_createDCtx(): number
  /** 0 after a frame, else how much it wants next, or one of ERRORS, negative. */
  ZSTD_decompressStream(context: number, output: number, input: number): number
}

/** Bytes of the buffers for what is read and what is unpacked. */
const INPUT = 64 << 10
const OUTPUT = 256 << 10

/** Of zstd_errors.h, those that say something to whoever has made the file. */
const ERRORS: Partial<Record<number, string>> = {
  10: 'there is something other than a frame',
  16: 'its window is larger than 128 MiB',
  22: 'the checksum is wrong',
  32: 'it needs a dictionary',
}
const LAST_ERROR = 120

/** The package has one of it for each thread, loaded once. */
let loaded: Promise<Zstd> | undefined

export async function* unzstd(input: Input): AsyncGenerator<Uint8Array, void> {
  const stream = new ZstdStream(await (loaded ??= loadZstd()))
  for (let piece = await input(); piece; piece = await input()) {
    for (let start = 0; start < piece.length; start += INPUT) {
      yield* stream.unpack(piece.subarray(start, start + INPUT))
    }
  }
  if (!stream.complete) throw new DecodeError()
}

async function loadZstd(): Promise<Zstd> {
  const decoder = new ZSTDDecoder()
  let exports: Zstd | undefined
  // The package's own loop over this interface takes no notice of errors.
  const keep = decoder._init.bind(decoder)
  decoder._init = (result: { instance: { exports: Zstd } }) => {
    keep(result)
    exports = result.instance.exports
  }
  await decoder.init()
  if (!exports) throw new Error('the decoder of zstd has not loaded')
  return exports
}

class ZstdStream {
  /** All frames so far are whole. */
  complete = true
  readonly #zstd: Zstd
  readonly #context: number
  readonly #input: Buffers
  readonly #output: Buffers

  constructor(zstd: Zstd) {
    this.#zstd = zstd
    this.#context = zstd.ZSTD_createDCtx()
    this.#input = new Buffers(zstd, INPUT)
    this.#output = new Buffers(zstd, OUTPUT)
  }

  *unpack(piece: Uint8Array): Generator<Uint8Array, void> {
    this.#input.start(piece.length)
    new Uint8Array(this.#zstd.memory.buffer).set(piece, this.#input.data)
    do {
      this.#output.start(OUTPUT)
      const result = this.#zstd.ZSTD_decompressStream(
        this.#context,
        this.#output.descriptor,
        this.#input.descriptor,
      )
      if (result < 0 && result > -LAST_ERROR) throw new DecodeError(ERRORS[-result] ?? 'damaged')
      this.complete = result === 0
      const { used } = this.#output
      if (used > 0) yield new Uint8Array(this.#zstd.memory.buffer, this.#output.data, used)
      // A full output may have left something behind, though not after a frame, where a call would start the next.
    } while (this.#input.used < piece.length || (!this.complete && this.#output.used === OUTPUT))
  }
}

/** A buffer, and the ZSTD_inBuffer or ZSTD_outBuffer that describes it: its address, its size, how much is used. */
class Buffers {
  readonly descriptor: number
  readonly data: number
  readonly #zstd: Zstd

  constructor(zstd: Zstd, size: number) {
    this.#zstd = zstd
    this.data = zstd.malloc(size)
    this.descriptor = zstd.malloc(3 * Uint32Array.BYTES_PER_ELEMENT)
  }

  start(size: number): void {
    this.#fields().set([this.data, size, 0])
  }

  get used(): number {
    return this.#fields()[2] ?? 0
  }

  /** The memory is another one after it has grown. */
  #fields(): Uint32Array {
    return new Uint32Array(this.#zstd.memory.buffer, this.descriptor, 3)
  }
}
