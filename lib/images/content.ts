// What an image is made from, unpacked: pieces in their order, whatever format they come in.
import type { Readable } from 'node:stream'
import { badImage, type Origin } from './bad-image.js'
import { ByteReader } from './byte-reader.js'
import { openSource, type ByteSource } from './byte-source.js'
import { compressionOf, decompress, MAGIC_LENGTH } from './decompress.js'
import type { Piece } from './piece.js'
import { SPARSE_MAGIC, SparseImage } from './sparse-image.js'

export type { Piece }

export interface Content {
  /** Bytes, where they are known before the content is read. */
  size: number | undefined
  /** To be read once, and ended (`return`) where it is not read to its end. */
  pieces: AsyncGenerator<Piece, void>
}

export interface ContentRequest {
  /** The most bytes that the content may have: more is DMLOOP_BAD_IMAGE. */
  size: number | undefined
  /** Ends all with its reason. */
  signal: AbortSignal | undefined
}

/** Bytes of a piece of what is no sparse image. */
const PIECE = 4 << 20

/**
 * Opens what an image is made from: a file, a device or a stream; raw, sparse, or one of these compressed.
 * Rejects with DMLOOP_BAD_IMAGE for what is not whole, with the errors of the source as they are, and with the
 * signal's reason. What it has opened is closed when `pieces` ends.
 */
export async function openContent(
  from: string | Readable,
  request: ContentRequest,
): Promise<Content> {
  const layers: ByteSource[] = [await openSource(from, request.signal)]
  try {
    const file = typeof from === 'string' ? from : undefined
    const content = await recognise(layers, file, request.signal)
    const pieces = closing(limited(content, request.size), layers)
    // A generator that has not started ends without its `finally`, and the source would stay open.
    await pieces.next()
    return { size: content.size, pieces }
  } catch (error) {
    await closeAll(layers)
    throw error
  }
}

/** Content, and which bytes the positions in its errors count. */
type Recognised = Content & { origin: Origin }

/** Adds to the layers what unpacks the first of them, if it is compressed. */
async function recognise(
  layers: ByteSource[],
  file: string | undefined,
  signal: AbortSignal | undefined,
): Promise<Recognised> {
  const [source] = layers as [ByteSource]
  const reader = new ByteReader(source)
  const packed = { file, unpacked: false }
  const format = compressionOf(await reader.peek(MAGIC_LENGTH))
  if (!format) return recogniseImage(reader, packed, source.size)
  const unpacked = decompress(format, reader, packed, signal)
  layers.push(unpacked)
  return recogniseImage(new ByteReader(unpacked), { file, unpacked: true }, undefined)
}

async function recogniseImage(
  reader: ByteReader,
  origin: Origin,
  size: number | undefined,
): Promise<Recognised> {
  const magic = await reader.peek(SPARSE_MAGIC.length)
  if (!SPARSE_MAGIC.equals(magic)) return { size, origin, pieces: rawPieces(reader, origin, size) }
  const image = await SparseImage.open(reader, origin)
  return { size: image.size, origin, pieces: image.pieces() }
}

/** All bytes as they are. Of a file, as many as it had when it was opened. */
async function* rawPieces(
  reader: ByteReader,
  origin: Origin,
  size: number | undefined,
): AsyncGenerator<Piece, void> {
  for (;;) {
    const data = await reader.some(PIECE)
    const { position } = reader
    if (size !== undefined && (data ? position > size : position < size)) {
      throw badImage(origin, position, `has changed while it was read: it had ${size} bytes`)
    }
    if (!data) return
    yield { data }
  }
}

/** Nothing beyond `size`. */
function limited(content: Recognised, size: number | undefined): AsyncGenerator<Piece, void> {
  if (size === undefined) return content.pieces
  if (content.size === undefined) return within(content, size)
  if (content.size <= size) return content.pieces
  throw badImage(content.origin, undefined, `has ${content.size} bytes, ${tooMany(size)}`)
}

/** Content that does not say how much it is: bytes as they are. */
async function* within({ pieces, origin }: Recognised, size: number): AsyncGenerator<Piece, void> {
  let left = size
  for await (const piece of pieces) {
    left -= 'data' in piece ? piece.data.length : piece.length
    if (left < 0) throw badImage(origin, size, `goes on, ${tooMany(size)}`)
    yield piece
  }
}

const tooMany = (size: number): string => `and the image is to have ${size}`

/** Pieces after an empty one, which starts the generator; closes the layers when it ends, however it does. */
async function* closing(
  pieces: AsyncGenerator<Piece, void>,
  layers: readonly ByteSource[],
): AsyncGenerator<Piece, void> {
  try {
    yield { data: new Uint8Array(0) }
    yield* pieces
  } finally {
    await closeAll(layers)
  }
}

async function closeAll(layers: readonly ByteSource[]): Promise<void> {
  for (const layer of layers.toReversed()) await layer.close()
}
