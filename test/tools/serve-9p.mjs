// serve-9p.mjs SOCKET: a 9P2000.L server with one directory that holds one file, `file`, of random
// bytes; no more than the kernel's 9p needs to mount it and read it. All numbers are little-endian.
import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:net'

const CONTENT = randomBytes(65536)
const [ENOENT, EOPNOTSUPP] = [2, 95]
const DIRECTORY = { type: 0x80, path: 1n, mode: 0o040755, size: 4096 }
const FILE = { type: 0, path: 2n, mode: 0o100644, size: CONTENT.length }

const u8 = (value) => Buffer.from([value])
const u16 = (value) => bytes(2, 'writeUInt16LE', value)
const u32 = (value) => bytes(4, 'writeUInt32LE', value)
const u64 = (value) => bytes(8, 'writeBigUInt64LE', BigInt(value))
const text = (value) => Buffer.concat([u16(value.length), Buffer.from(value)])
const qid = ({ type, path }) => Buffer.concat([u8(type), u32(0), u64(path)])

function bytes(length, write, value) {
  const buffer = Buffer.alloc(length)
  buffer[write](value)
  return buffer
}

/** What each fid of the connection stands for. */
const fids = new Map()

/** Answers a request by its type; undefined is an answer that something is not supported. */
const ANSWERS = {
  // Tversion, Tattach, Tclunk, Tflush
  100: (request) => [request.subarray(0, 4), text('9P2000.L')],
  104: (request) => [qid(remember(request.readUInt32LE(0), DIRECTORY))],
  120: () => [],
  108: () => [],
  // Twalk
  110(request) {
    const count = request.readUInt16LE(8)
    const from = fids.get(request.readUInt32LE(0))
    if (count === 0) {
      remember(request.readUInt32LE(4), from)
      return [u16(0)]
    }
    const name = request.subarray(12, 12 + request.readUInt16LE(10)).toString()
    if (name !== 'file') return ENOENT
    return [u16(1), qid(remember(request.readUInt32LE(4), FILE))]
  },
  // Tlopen, Tread
  12: (request) => [qid(fids.get(request.readUInt32LE(0))), u32(0)],
  116(request) {
    const offset = Number(request.readBigUInt64LE(4))
    const part = CONTENT.subarray(offset, offset + request.readUInt32LE(12))
    return [u32(part.length), part]
  },
  // Tgetattr: valid, qid, mode, uid, gid, nlink, rdev, size, blksize, blocks, and 10 times
  24(request) {
    const node = fids.get(request.readUInt32LE(0))
    const numbers = [1, 0, node.size, 4096, node.size / 512, ...Array(10).fill(0)].map(u64)
    return [u64(0x7ff), qid(node), u32(node.mode), u32(0), u32(0), ...numbers]
  },
  // Tstatfs: V9FS_MAGIC, block size, five counts, an id, the longest name
  8: () => [u32(0x01021997), u32(4096), ...[1, 0, 0, 2, 0, 0].map(u64), u32(255)],
}

function remember(fid, node) {
  fids.set(fid, node)
  return node
}

/** Size, type and tag of a message come before its body (9p(5)). */
const HEADER = 7
const RLERROR = 7

function answer(type, tag, body) {
  const found = ANSWERS[type]?.(body) ?? EOPNOTSUPP
  const parts = typeof found === 'number' ? [u32(found)] : found
  const payload = Buffer.concat(parts)
  const kind = typeof found === 'number' ? RLERROR : type + 1
  return Buffer.concat([u32(HEADER + payload.length), u8(kind), u16(tag), payload])
}

createServer((connection) => {
  let received = Buffer.alloc(0)
  connection.on('data', (data) => {
    received = Buffer.concat([received, data])
    while (received.length >= HEADER && received.length >= received.readUInt32LE(0)) {
      const size = received.readUInt32LE(0)
      const [type, tag] = [received[4], received.readUInt16LE(5)]
      connection.write(answer(type, tag, received.subarray(HEADER, size)))
      received = received.subarray(size)
    }
  })
}).listen(process.argv[2])
