// Android's sparse image format, as AOSP's libsparse/sparse_format.h describes it: chunks of blocks that have
// content, one pattern, or none. All numbers are little-endian.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { badImage, type Origin } from './bad-image.js'
import type { ByteReader } from './byte-reader.js'
import { crc32OfFill } from './crc32.js'
import type { Piece } from './piece.js'

/** What a sparse image starts with: 0xed26ff3a. */
export const SPARSE_MAGIC = Buffer.from([0x3a, 0xff, 0x26, 0xed])

const VERSION = 1
/** Bytes that version 1 defines of the header of a file, and of a chunk; those after them are to be skipped. */
const FILE_HEADER = 28
const CHUNK_HEADER = 12

const RAW = 0xcac1
const FILL = 0xcac2
const DONT_CARE = 0xcac3
const CRC32 = 0xcac4

/** The most bytes of a piece. */
const PIECE = 4 << 20
/** Chunks between two turns of the event loop: a block of the input may have many that are almost nothing. */
const TURN = 1000

/** Bytes of a fill pattern, and of a checksum. */
const WORD = 4
const ZEROS = new Uint8Array(WORD)

interface SparseHeader {
  /** Bytes. */
  chunkHeaderSize: number
  /** Bytes. */
  blockSize: number
  /** Blocks of the whole image. */
  blocks: number
  chunks: number
  /** The CRC-32 of the whole image; 0: not given. */
  checksum: number
}

interface Chunk {
  type: number
  /** Bytes of the image. */
  length: number
  /** Bytes after the chunk's header. */
  dataLength: number
  /** Where it starts in the file, in bytes. */
  start: number
}

export class SparseImage {
  readonly #reader: ByteReader
  readonly #origin: Origin
  readonly #header: SparseHeader
  /** Of the image so far; blocks without content count as zeros. */
  #crc = 0
  /** Bytes of the image so far. */
  #done = 0

  /** Reads the header. */
  static async open(reader: ByteReader, origin: Origin): Promise<SparseImage> {
    return new SparseImage(reader, origin, await readHeader(reader, origin))
  }

  private constructor(reader: ByteReader, origin: Origin, header: SparseHeader) {
    this.#reader = reader
    this.#origin = origin
    this.#header = header
  }

  /** Bytes of the image. */
  get size(): number {
    return this.#header.blocks * this.#header.blockSize
  }

  async *pieces(): AsyncGenerator<Piece, void> {
    for (let index = 0; index < this.#header.chunks; index++) {
      const chunk = await this.#readChunkHeader()
      this.#checkChunk(chunk)
      yield* this.#content(chunk)
      this.#done += chunk.length
      if (index % TURN === 0) await nextTurn()
    }
    await this.#checkEnd()
  }

  async #readChunkHeader(): Promise<Chunk> {
    const { chunkHeaderSize, blockSize } = this.#header
    const start = this.#reader.position
    const bytes = await this.#take(CHUNK_HEADER)
    const type = bytes.readUInt16LE(0)
    const blocks = bytes.readUInt32LE(4)
    const dataLength = bytes.readUInt32LE(8) - chunkHeaderSize
    if (!(await this.#reader.skip(chunkHeaderSize - CHUNK_HEADER))) throw this.#truncated()
    return { type, length: blocks * blockSize, dataLength, start }
  }

  #checkChunk({ type, length, dataLength, start }: Chunk): void {
    const expected = dataLengthOf(type, length)
    if (expected === undefined) throw this.#bad(start, `has a chunk of unknown type ${hex(type)}`)
    if (dataLength !== expected) {
      throw this.#bad(start, `has a chunk with ${dataLength} bytes of data instead of ${expected}`)
    }
    if (type === CRC32 && length > 0)
      throw this.#bad(start, 'has a checksum with blocks of content')
    if (this.#done + length > this.size)
      throw this.#bad(start, `has more than its ${this.size} bytes`)
  }

  async *#content({ type, length, start }: Chunk): AsyncGenerator<Piece, void> {
    if (type === RAW) yield* this.#raw(length)
    else if (type === CRC32) this.#checkCrc((await this.#take(WORD)).readUInt32LE(), start)
    else {
      const fill = type === FILL ? await this.#take(WORD) : ZEROS
      this.#crc = crc32OfFill(this.#crc, fill, length)
      if (length > 0) yield { fill, length }
    }
  }

  async *#raw(length: number): AsyncGenerator<Piece, void> {
    let left = length
    while (left > 0) {
      const data = await this.#reader.some(Math.min(left, PIECE))
      if (!data) throw this.#truncated()
      this.#crc = crc32(data, this.#crc)
      left -= data.length
      yield { data }
    }
  }

  async #checkEnd(): Promise<void> {
    const { position } = this.#reader
    if (this.#done < this.size) {
      throw this.#bad(position, `has ${this.#done} bytes instead of ${this.size}`)
    }
    if (this.#header.checksum !== 0) this.#checkCrc(this.#header.checksum, position)
    if (!(await this.#reader.ended())) throw this.#bad(position, 'goes on after its last chunk')
  }

  #checkCrc(expected: number, position: number): void {
    if (this.#crc === expected) return
    throw this.#bad(position, `has the CRC-32 ${hex(this.#crc)} instead of ${hex(expected)}`)
  }

  async #take(count: number): Promise<Buffer> {
    const bytes = await this.#reader.take(count)
    if (bytes.length < count) throw this.#truncated()
    return bytes
  }

  #truncated(): Error {
    return truncated(this.#reader, this.#origin)
  }

  #bad(position: number, found: string): Error {
    return badImage(this.#origin, position, `is a sparse image that ${found}`)
  }
}

async function readHeader(reader: ByteReader, origin: Origin): Promise<SparseHeader> {
  const bytes = await reader.take(FILE_HEADER)
  if (bytes.length < FILE_HEADER) throw truncated(reader, origin)
  const bad = (offset: number, found: string): Error =>
    badImage(origin, offset, `is a sparse image ${found}`)

  const version = bytes.readUInt16LE(4)
  if (version !== VERSION) throw bad(4, `of version ${version}, and only version 1 is known`)
  const fileHeaderSize = bytes.readUInt16LE(8)
  if (fileHeaderSize < FILE_HEADER) throw bad(8, `with a header of ${fileHeaderSize} bytes`)
  const chunkHeaderSize = bytes.readUInt16LE(10)
  if (chunkHeaderSize < CHUNK_HEADER)
    throw bad(10, `with chunk headers of ${chunkHeaderSize} bytes`)
  const blockSize = bytes.readUInt32LE(12)
  if (blockSize === 0 || blockSize % WORD !== 0) throw bad(12, `with blocks of ${blockSize} bytes`)
  const blocks = bytes.readUInt32LE(16)
  if (!Number.isSafeInteger(blocks * blockSize)) {
    throw bad(16, `of ${blocks} blocks of ${blockSize} bytes, which no disk has`)
  }
  if (!(await reader.skip(fileHeaderSize - FILE_HEADER))) throw truncated(reader, origin)
  const [chunks, checksum] = [bytes.readUInt32LE(20), bytes.readUInt32LE(24)]
  return { chunkHeaderSize, blockSize, blocks, chunks, checksum }
}

/** Bytes of data that a chunk has for so many bytes of the image; undefined: there is no such type. */
function dataLengthOf(type: number, length: number): number | undefined {
  switch (type) {
    case RAW:
      return length
    case FILL:
    case CRC32:
      return WORD
    case DONT_CARE:
      return 0
    default:
      return undefined
  }
}

const truncated = (reader: ByteReader, origin: Origin): Error =>
  badImage(origin, reader.position, 'is a sparse image that ends too early')

const hex = (value: number): string => `0x${value.toString(16)}`
