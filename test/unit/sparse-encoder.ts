// Makes Android sparse images, right and wrong ones.
import { crc32 } from 'node:zlib'

export interface SparseChunk {
  type: number
  /** As the header has it; undefined: as many as the data has. */
  blocks: number | undefined
  /** undefined: the CRC-32 of what comes before it. */
  data: Buffer | undefined
}

export const raw = (data: Buffer): SparseChunk => ({ type: 0xcac1, blocks: undefined, data })

export const fill = (pattern: string, blocks: number): SparseChunk => ({
  type: 0xcac2,
  blocks,
  data: Buffer.from(pattern),
})

export const dontCare = (blocks: number): SparseChunk => ({
  type: 0xcac3,
  blocks,
  data: Buffer.alloc(0),
})

export function checksum(crc?: number): SparseChunk {
  if (crc === undefined) return { type: 0xcac4, blocks: 0, data: undefined }
  const data = Buffer.alloc(4)
  data.writeUInt32LE(crc)
  return { type: 0xcac4, blocks: 0, data }
}

export interface SparseOptions {
  /** Bytes. */
  blockSize: number
  /** Blocks of the image, as the header has it. */
  blocks?: number
  /** Bytes of the headers. */
  fileHeader?: number
  chunkHeader?: number
  /** The header has a checksum of the image. */
  checksum?: boolean
}

/** The bytes that a chunk is for. */
function contentOf({ type, blocks, data }: SparseChunk, blockSize: number): Buffer {
  if (type === 0xcac1) return data ?? Buffer.alloc(0)
  if (type === 0xcac2 && data?.length) return Buffer.alloc((blocks ?? 0) * blockSize, data)
  return type === 0xcac3 ? Buffer.alloc((blocks ?? 0) * blockSize) : Buffer.alloc(0)
}

export const unpacked = (chunks: readonly SparseChunk[], blockSize: number): Buffer =>
  Buffer.concat(chunks.map((chunk) => contentOf(chunk, blockSize)))

const blocksOf = ({ blocks, data }: SparseChunk, blockSize: number): number =>
  blocks ?? (data?.length ?? 0) / blockSize

function encode(chunk: SparseChunk, data: Buffer, options: Required<SparseOptions>): Buffer {
  const header = Buffer.alloc(options.chunkHeader, 0xee)
  header.writeUInt16LE(chunk.type, 0)
  header.writeUInt16LE(0, 2)
  header.writeUInt32LE(Math.ceil(blocksOf(chunk, options.blockSize)), 4)
  header.writeUInt32LE(header.length + data.length, 8)
  return Buffer.concat([header, data])
}

export function sparse(chunks: readonly SparseChunk[], given: SparseOptions): Buffer {
  const all = chunks.reduce((sum, chunk) => sum + blocksOf(chunk, given.blockSize), 0)
  const options = {
    blocks: Math.ceil(all),
    fileHeader: 28,
    chunkHeader: 12,
    checksum: false,
    ...given,
  }
  const header = Buffer.alloc(options.fileHeader, 0xee)
  header.writeUInt32LE(0xed26ff3a, 0)
  header.writeUInt16LE(1, 4)
  header.writeUInt16LE(0, 6)
  header.writeUInt16LE(options.fileHeader, 8)
  header.writeUInt16LE(options.chunkHeader, 10)
  header.writeUInt32LE(options.blockSize, 12)
  header.writeUInt32LE(options.blocks, 16)
  header.writeUInt32LE(chunks.length, 20)

  const needsCrc = options.checksum || chunks.some(({ data }) => data === undefined)
  let crc = 0
  const encoded = chunks.map((chunk) => {
    const data = chunk.data ?? checksum(crc).data ?? Buffer.alloc(0)
    if (needsCrc) crc = crc32(contentOf(chunk, options.blockSize), crc)
    return encode(chunk, data, options)
  })
  header.writeUInt32LE(options.checksum ? crc : 0, 24)
  return Buffer.concat([header, ...encoded])
}
