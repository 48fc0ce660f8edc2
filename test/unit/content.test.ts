// What an image is made from: every format, whole and damaged, large and small, and in pieces of any size.
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { crc32, gzipSync } from 'node:zlib'
import t from 'tap'
import { openContent, type Content, type Piece } from '#lib/images/content.js'
import { crc32OfFill } from '#lib/images/crc32.js'
import type { DmloopError } from 'dmloop'
import { LARGE, largeImage, SMALL, SMALL_IMAGE, XZ_ZEROS } from './packed-images.js'
import {
  checksum,
  dontCare,
  fill,
  raw,
  sparse,
  unpacked,
  type SparseChunk,
} from './sparse-encoder.js'

const MIB = 1 << 20
const BAD = { name: 'DmloopError', code: 'DMLOOP_BAD_IMAGE' }
const TYPE = { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' }
/** Bytes at the start of a file that tell its format: without them it is raw. */
const MAGIC = 6
const NOTHING_SAID = { size: undefined, signal: undefined }

t.setTimeout(120_000)
const folder = mkdtempSync(join(tmpdir(), 'dmloop-content-'))
t.teardown(() => {
  rmSync(folder, { recursive: true })
})

let files = 0
function file(content: Uint8Array): string {
  const path = join(folder, `image-${files++}`)
  writeFileSync(path, content)
  return path
}

/** A stream of pieces of a size. */
function stream(content: Uint8Array, size = 64 << 10): Readable {
  const pieces = Array.from({ length: Math.ceil(content.length / size) }, (_, index) =>
    Buffer.from(content.subarray(index * size, (index + 1) * size)),
  )
  return Readable.from(pieces, { objectMode: false })
}

const bytesOf = (piece: Piece): Buffer =>
  'data' in piece ? Buffer.from(piece.data) : Buffer.alloc(piece.length, piece.fill)

async function collect({ pieces }: Content): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const piece of pieces) parts.push(bytesOf(piece))
  return Buffer.concat(parts)
}

const read = async (from: string | Readable, size?: number): Promise<Buffer> =>
  collect(await openContent(from, { size, signal: undefined }))

/** Passes over the content; bytes. */
async function drain(
  from: string | Readable,
  size?: number,
  signal?: AbortSignal,
): Promise<number> {
  const { pieces } = await openContent(from, { size, signal })
  let length = 0
  for await (const piece of pieces) length += 'data' in piece ? piece.data.length : piece.length
  return length
}

/** The error that reading ends with, and the bytes before it. */
async function failure(
  from: string | Readable,
  size?: number,
): Promise<{ error: DmloopError; bytes: number }> {
  let bytes = 0
  try {
    const { pieces } = await openContent(from, { size, signal: undefined })
    for await (const piece of pieces) bytes += bytesOf(piece).length
  } catch (error) {
    return { error: error as DmloopError, bytes }
  }
  throw new Error('it was read')
}

const descriptors = (): number => readdirSync('/proc/self/fd').length

/** No more descriptors are open than before, as soon as what was aborted has returned from the kernel. */
async function closedAgain(before: number): Promise<boolean> {
  // It may return, with a descriptor, only after the first looks.
  for (let tries = 0, quiet = 0; tries < 500; tries++) {
    quiet = descriptors() > before ? 0 : quiet + 1
    if (quiet === 5) return true
    await sleep(20)
  }
  return false
}

/** Random numbers that are the same in every run. */
function randomNumbers(seed: number): (limit: number) => number {
  let state = seed
  return (limit) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
}

const image = largeImage()
const BLOCK = 4096

/** The large image in chunks of every type; its last blocks are zeros. */
const CHUNKS: SparseChunk[] = [
  raw(image.subarray(0, 3 * BLOCK)),
  fill('abcd', 1),
  dontCare(2),
  checksum(),
  raw(image.subarray(6 * BLOCK, 700 * BLOCK)),
  dontCare(0),
  fill('\0\0\0\0', 300),
  checksum(),
]
const sparseImage = sparse(CHUNKS, { blockSize: BLOCK })
const sparseContent = unpacked(CHUNKS, BLOCK)

await t.test('every format, from a file and from a stream', async (t) => {
  const samples: [name: string, packed: Uint8Array, content: Buffer, size: number | undefined][] = [
    ['raw', image, image, undefined],
    ['nothing', Buffer.alloc(0), Buffer.alloc(0), undefined],
    ['three bytes', Buffer.from('abc'), Buffer.from('abc'), undefined],
    ['sparse', sparseImage, sparseContent, sparseContent.length],
    ['gzip', gzipSync(image), image, undefined],
    ['zstd', LARGE.zstd, image, undefined],
    ['xz', LARGE.xz, image, undefined],
    ['gzip of sparse', gzipSync(sparseImage), sparseContent, sparseContent.length],
    ['gzip of gzip', gzipSync(gzipSync(image)), gzipSync(image), undefined],
    ['gzip of nothing', gzipSync(''), Buffer.alloc(0), undefined],
    [
      'several members',
      Buffer.concat([gzipSync('a'), gzipSync(''), gzipSync('bc')]),
      Buffer.from('abc'),
      undefined,
    ],
    [
      'gzip and padding',
      Buffer.concat([gzipSync('abc'), Buffer.alloc(200_000)]),
      Buffer.from('abc'),
      undefined,
    ],
    ['zstd without a checksum', SMALL.zstdUnchecked, SMALL_IMAGE, undefined],
    [
      'several frames',
      Buffer.concat([
        skippable(5),
        SMALL.zstd,
        skippable(0),
        LARGE.zstd,
        SMALL.zstdUnchecked,
        skippable(99),
      ]),
      Buffer.concat([SMALL_IMAGE, image, SMALL_IMAGE]),
      undefined,
    ],
    ['xz without a check', SMALL.xzUnchecked, SMALL_IMAGE, undefined],
    ['xz with CRC-32', SMALL.xzCrc32, SMALL_IMAGE, undefined],
    ['xz with CRC-64', SMALL.xzCrc64, SMALL_IMAGE, undefined],
    [
      'several streams',
      Buffer.concat([SMALL.xzCrc32, LARGE.xz, Buffer.alloc(8), SMALL.xzUnchecked, Buffer.alloc(4)]),
      Buffer.concat([SMALL_IMAGE, image, SMALL_IMAGE]),
      undefined,
    ],
  ]
  for (const [name, packed, content, size] of samples) {
    const isRaw = packed === content || packed.length < 4
    const opened = await openContent(file(packed), { size: content.length, signal: undefined })
    t.equal(
      opened.size,
      isRaw && packed.length > 0 ? packed.length : size,
      `${name}: size of a file`,
    )
    t.ok((await collect(opened)).equals(content), `${name}: a file`)
    for (const step of [7 * MIB, 4093, ...(packed.length < 20_000 ? [1] : [])]) {
      const streamed = await openContent(stream(packed, step), NOTHING_SAID)
      t.equal(streamed.size, size, `${name}: size of a stream`)
      t.ok(
        (await collect(streamed)).equals(content),
        `${name}: a stream of ${step} bytes at a time`,
      )
    }
  }
})

/** A frame of zstd that is to be skipped: RFC 8878, section 3.1.2. */
function skippable(length: number): Buffer {
  const header = Buffer.from([0x57, 0x2a, 0x4d, 0x18, 0, 0, 0, 0])
  header.writeUInt32LE(length, 4)
  return Buffer.concat([header, Buffer.alloc(length, 0xfd)])
}

await t.test(
  'a file of several blocks comes in large pieces, each read while the one before it is used',
  async (t) => {
    const large = Buffer.alloc(9 * MIB + 100)
    for (let offset = 0; offset < large.length; offset += 1000) large.writeUInt32LE(offset, offset)
    const { pieces, size } = await openContent(file(large), NOTHING_SAID)
    t.equal(size, large.length)
    const lengths: number[] = []
    let offset = 0
    for await (const piece of pieces) {
      await sleep(10)
      const bytes = bytesOf(piece)
      t.ok(bytes.equals(large.subarray(offset, offset + bytes.length)), `still there at ${offset}`)
      offset += bytes.length
      lengths.push(bytes.length)
    }
    t.strictSame(lengths, [...new Array<number>(9).fill(MIB), 100])
  },
)

await t.test('the pieces of a sparse image', async (t) => {
  const { pieces } = await openContent(
    stream(
      sparse([raw(Buffer.alloc(2 * MIB, 'x')), fill('abcd', 2 ** 20), dontCare(1)], {
        blockSize: BLOCK,
      }),
      3 * MIB,
    ),
    NOTHING_SAID,
  )
  const seen: unknown[] = []
  for await (const piece of pieces) {
    seen.push(
      'data' in piece ? piece.data.length : [Buffer.from(piece.fill).toString(), piece.length],
    )
  }
  t.strictSame(seen, [2 * MIB, ['abcd', 2 ** 32], ['\0\0\0\0', BLOCK]])
})

await t.test('headers of a later minor version are longer', async (t) => {
  const longer = sparse(CHUNKS, {
    blockSize: BLOCK,
    fileHeader: 52,
    chunkHeader: 20,
    checksum: true,
  })
  t.ok((await read(stream(longer))).equals(sparseContent))
  const packed = gzipSync(longer)
  t.ok((await read(file(packed))).equals(sparseContent))
})

await t.test('CRC-32 of fills', async (t) => {
  const random = randomNumbers(1)
  for (const length of [0, 4, 8, 12, 400, 65_536, 1_234_568]) {
    const pattern = Buffer.from([random(256), random(256), random(256), random(256)])
    t.equal(
      crc32OfFill(99, pattern, length),
      crc32(Buffer.alloc(length, pattern), 99),
      `${length} bytes`,
    )
  }
  // Of 8 GiB of zeros and then "abc": by zlib, piece by piece.
  t.equal(crc32('abc', crc32OfFill(0, Buffer.alloc(4), 8 * 2 ** 30)), 0x0c476fcd)
  const start = performance.now()
  const huge = sparse([dontCare(2 ** 31), checksum(crc32OfFill(0, Buffer.alloc(4), 2 ** 43))], {
    blockSize: BLOCK,
  })
  t.equal(await drain(stream(huge)), 2 ** 43)
  t.ok(performance.now() - start < 500, 'fast')
})

await t.test('a damaged sparse image', async (t) => {
  const header = (offset: number, value: number, width: 2 | 4): Buffer => {
    const damaged = Buffer.from(sparseImage)
    damaged.writeUIntLE(value, offset, width)
    return damaged
  }
  const chunk = (chunks: SparseChunk[], blocks?: number): Buffer =>
    sparse(chunks, { blockSize: BLOCK, ...(blocks === undefined ? {} : { blocks }) })
  const damaged: [name: string, image: Buffer, message: RegExp, offset: number][] = [
    ['version 2', header(4, 2, 2), /version 2, and only version 1 is known, at byte 4/, 4],
    ['a short file header', header(8, 27, 2), /header of 27 bytes/, 8],
    ['a short chunk header', header(10, 11, 2), /chunk headers of 11 bytes/, 10],
    ['no block size', header(12, 0, 4), /blocks of 0 bytes/, 12],
    ['an odd block size', header(12, 4098, 4), /blocks of 4098 bytes/, 12],
    ['absurd', header(12, 0xfffffffc, 4).fill(0xff, 16, 20), /no disk has/, 16],
    [
      'the checksum of the image',
      header(24, 1, 4),
      /has the CRC-32 0x\w+ instead of 0x1/,
      sparseImage.length,
    ],
    [
      'too few blocks in the header',
      header(16, 5, 4),
      /has more than its 20480 bytes/,
      28 + 12 + 3 * BLOCK + 16,
    ],
    [
      'too many blocks in the header',
      header(16, 9999, 4),
      /has 4096000 bytes instead of/,
      sparseImage.length,
    ],
    [
      'too few chunks in the header',
      header(20, 7, 4),
      /goes on after its last chunk/,
      sparseImage.length - 16,
    ],
    ['too many chunks in the header', header(20, 9, 4), /ends too early/, sparseImage.length],
    [
      'more data',
      Buffer.concat([sparseImage, Buffer.alloc(1)]),
      /goes on after its last/,
      sparseImage.length,
    ],
    [
      'an unknown chunk',
      chunk([{ ...raw(Buffer.alloc(0)), type: 0xcac5 }]),
      /unknown type 0xcac5/,
      28,
    ],
    [
      'a raw chunk',
      chunk([{ ...raw(Buffer.alloc(BLOCK)), data: Buffer.alloc(9) }]),
      /9 bytes of data instead of 4096/,
      28,
    ],
    [
      'a fill',
      chunk([{ ...fill('abcd', 1), data: Buffer.alloc(8) }]),
      /8 bytes of data instead of 4/,
      28,
    ],
    [
      'a fill without a pattern',
      chunk([{ ...fill('abcd', 1), data: Buffer.alloc(0) }]),
      /0 bytes of data/,
      28,
    ],
    [
      "don't care",
      chunk([{ ...dontCare(1), data: Buffer.alloc(4) }]),
      /4 bytes of data instead of 0/,
      28,
    ],
    ['a checksum with blocks', chunk([{ ...checksum(), blocks: 1 }]), /checksum with blocks/, 28],
    [
      'a checksum of 8 bytes',
      chunk([{ ...checksum(), data: Buffer.alloc(8) }]),
      /8 bytes of data instead of 4/,
      28,
    ],
    [
      'a checksum',
      chunk([dontCare(1), checksum(1)]),
      /has the CRC-32 0xc71c0011 instead of 0x1/,
      40,
    ],
    ['blocks beyond the image', chunk([dontCare(3)], 2), /has more than its 8192 bytes/, 28],
  ]
  for (const [name, content, message, offset] of damaged) {
    const path = file(content)
    const { error } = await failure(path)
    t.match(error, { ...BAD, file: path, offset, message }, name)
    const { error: packed } = await failure(stream(gzipSync(content)))
    t.match(packed, { ...BAD, file: undefined, offset }, `${name}, packed`)
    t.match(packed.message, /^the stream .* of what it unpacks to\./)
  }
})

await t.test('a sparse image that ends too early, anywhere', async (t) => {
  const small = sparse([raw(Buffer.from('abcdefgh')), fill('ijkl', 2), dontCare(1), checksum()], {
    blockSize: 8,
  })
  for (let length = 4; length < small.length; length++) {
    const { error } = await failure(stream(small.subarray(0, length), 5))
    t.match(error, { ...BAD, offset: length, message: /ends too early/ }, `${length} bytes`)
  }
  t.equal(await drain(stream(small)), 32)
})

await t.test('damaged packed images', async (t) => {
  const packed = { gzip: gzipSync(image), zstd: LARGE.zstd, xz: LARGE.xz }
  for (const [name, whole] of Object.entries(packed)) {
    for (const length of [8, 20, whole.length >> 1, whole.length - 4, whole.length - 1]) {
      const path = file(whole.subarray(0, length))
      const { error } = await failure(path)
      const message = new RegExp(`is compressed by ${name} and ends too early, at byte ${length}`)
      t.match(error, { ...BAD, file: path, offset: length, message }, `${name} of ${length} bytes`)
    }
    for (const garbage of ['x', 'garbage', '\0\0\0x']) {
      const { error } = await failure(stream(Buffer.concat([whole, Buffer.from(garbage)]), 1000))
      t.match(error, BAD, `${name} and ${JSON.stringify(garbage)}`)
    }
    let refused = 0
    for (let offset = 0; offset < whole.length; offset += Math.ceil(whole.length / 15)) {
      const damaged = Buffer.from(whole)
      damaged[offset] = (damaged[offset] ?? 0) ^ 0x10
      const outcome = await read(stream(damaged), image.length).catch((error: unknown) => error)
      if (outcome instanceof Error) {
        t.match(outcome, BAD)
        refused++
      } else {
        t.ok((outcome as Buffer).equals(image) || offset < MAGIC, `${name}: ${offset}`)
      }
    }
    t.ok(refused > 6, `${name}: ${refused} of 15 damages are noticed, and the others are no damage`)
  }
  const sample = SMALL.zstd
  const wrong = [
    [Buffer.concat([sample, Buffer.alloc(8)]), /other than a frame/],
    [Buffer.concat([sample.subarray(0, -1), Buffer.from('x')]), /checksum is wrong/],
    [Buffer.concat([SMALL.xzCrc32, Buffer.alloc(3)]), /ends too early|damaged/],
    [SMALL.xzSha256, /SHA-256.*--check=crc64/],
    [SMALL.xzFiltered, /a filter other than LZMA2/],
    [
      Buffer.concat([gzipSync('a'), Buffer.alloc(70_000), Buffer.from('x')]),
      /something after its end\), at byte 70021/,
    ],
  ] as const
  for (const [content, message] of wrong) {
    t.match((await failure(file(content))).error, { ...BAD, message })
  }
})

await t.test('never more than the size', async (t) => {
  const limit = SMALL_IMAGE.length
  for (const [name, packed] of Object.entries(SMALL)) {
    if (name === 'xzSha256' || name === 'xzFiltered') continue
    t.equal(await drain(stream(packed), limit), limit, `${name} fits`)
    const { error, bytes } = await failure(file(packed), limit - 1)
    t.match(
      error,
      { ...BAD, offset: limit - 1, message: /goes on, and the image is to have 279, at byte 279/ },
      name,
    )
    t.equal(bytes, 0)
  }
  const larger = file(image)
  const message = / has \d+ bytes, and the image is to have 512\./
  for (const from of [larger, stream(sparseImage), stream(gzipSync(sparseImage))]) {
    const opening = openContent(from, { size: 512, signal: undefined })
    await t.rejects(opening, { ...BAD, message }, 'at once, where it says how much it is')
  }
  const { error, bytes } = await failure(stream(image, 1000), 10_500)
  t.match(error, { ...BAD, file: undefined, offset: 10_500 })
  t.equal(bytes, 10_000, 'a stream, as soon as it is more')
})

/** Frames of blocks of one byte again and again: RFC 8878, sections 3.1.1.1 and 3.1.1.2. */
function zstdZeros(length: number): Buffer {
  const blockLength = 128 << 10
  const blocks = length / blockLength
  const frame = Buffer.alloc(6 + 4 * blocks)
  frame.writeUInt32LE(0xfd2fb528, 0)
  // A window of 128 KiB.
  frame[5] = 7 << 3
  for (let index = 0; index < blocks; index++) {
    const last = index === blocks - 1 ? 1 : 0
    frame.writeUIntLE(last | (1 << 1) | (blockLength << 3), 6 + 4 * index, 3)
  }
  return frame
}

const repeated = (bytes: Buffer, times: number): Buffer =>
  Buffer.concat(Array.from({ length: times }, () => bytes))

/** Bytes of memory that a call needs at most, as far as the process has more than before. */
async function peakOf(call: () => Promise<void>): Promise<number> {
  const start = process.memoryUsage.rss()
  let peak = 0
  const timer = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss() - start)
  }, 2)
  try {
    await call()
  } finally {
    clearInterval(timer)
  }
  return peak
}

await t.test('a few bytes that become many are unpacked a step at a time', async (t) => {
  const bombs: [name: string, bomb: Buffer, size: number][] = [
    ['gzip', repeated(gzipSync(Buffer.alloc(16 * MIB)), 64), 1024 * MIB],
    ['zstd', zstdZeros(1024 * MIB), 1024 * MIB],
    ['xz', repeated(XZ_ZEROS, 16), 256 * MIB],
  ]
  for (const [name, bomb, size] of bombs) {
    const path = file(bomb)
    const start = performance.now()
    const whole = await peakOf(async () => {
      t.equal(await drain(path), size)
    })
    const seconds = (performance.now() - start) / 1000
    t.ok(whole < 128 * MIB, `${name}: ${Math.round(whole / MIB)} MiB of memory for ${size / MIB}`)
    t.comment(`${name}: ${Math.round(size / 1e6 / seconds)} MB/s`)

    const waiting = await peakOf(async () => {
      const { pieces } = await openContent(path, NOTHING_SAID)
      await pieces.next()
      await sleep(200)
      await pieces.return()
    })
    t.ok(waiting < 64 * MIB, `${name}: ${Math.round(waiting / MIB)} MiB while nobody reads`)
    const { error, bytes } = await failure(path, 5 * MIB)
    t.match(error, { ...BAD, offset: 5 * MIB }, name)
    t.ok(bytes <= 5 * MIB, `${name}: ${bytes} bytes before it is refused`)
  }
})

await t.test('the event loop goes on meanwhile, whatever the input', async (t) => {
  const crumbs = sparse(
    Array.from({ length: 100_000 }, () => dontCare(0)),
    { blockSize: BLOCK },
  )
  for (const from of [file(repeated(XZ_ZEROS, 2)), stream(crumbs, 4 * MIB)]) {
    let turns = 0
    let reading = true
    const count = (): void => {
      turns++
      if (reading) setImmediate(count)
    }
    count()
    await drain(from)
    reading = false
    t.ok(turns >= 100, `${turns} turns`)
  }
})

await t.test('errors of the source are its own', async (t) => {
  const before = descriptors()
  const open = (from: string | Readable): Promise<Content> => openContent(from, NOTHING_SAID)
  const missing = join(folder, 'missing')
  await t.rejects(open(missing), { code: 'ENOENT', syscall: 'open', path: missing })
  await t.rejects(open(folder), { code: 'EISDIR', syscall: 'read' })
  await t.rejects(open(join(file(image), 'x')), { code: 'ENOTDIR' })

  const own = new Error('the network is down')
  for (const [name, packed] of Object.entries({ raw: image, gzip: gzipSync(image), ...LARGE })) {
    const failing = Readable.from(
      (function* () {
        yield packed.subarray(0, 1000)
        throw own
      })(),
      { objectMode: false },
    )
    await t.rejects(read(failing), own, name)
    t.ok(failing.destroyed)
  }

  const destroyed = new PassThrough()
  destroyed.destroy()
  await t.rejects(open(destroyed), { code: 'ERR_INVALID_ARG_VALUE', message: /is destroyed/ })
  const errored = new PassThrough()
  errored.on('error', () => undefined).destroy(own)
  await t.rejects(open(errored), own)
  const ended = stream(Buffer.from('abc'))
  await ended.toArray()
  await t.rejects(open(ended), { code: 'ERR_INVALID_ARG_VALUE', message: /has ended/ })
  const broken = new PassThrough()
  broken.write('abcdefgh')
  setImmediate(() => broken.destroy())
  await t.rejects(read(broken), { code: 'ERR_STREAM_PREMATURE_CLOSE' })

  await t.rejects(open(Readable.from(['abc'])), TYPE, 'object mode')
  await t.rejects(open(stream(image).setEncoding('latin1')), TYPE, 'strings')
  await nextTurn()
  t.ok(await closedAgain(before), 'nothing is left open')
})

await t.test('a file that changes while it is read', async (t) => {
  const path = file(Buffer.alloc(12 * MIB))
  const shorter = await openContent(path, NOTHING_SAID)
  writeFileSync(path, Buffer.alloc(9 * MIB))
  await t.rejects(collect(shorter), { ...BAD, message: /has changed while it was read/ })
  const longer = await openContent(path, NOTHING_SAID)
  writeFileSync(path, Buffer.alloc(MIB), { flag: 'a' })
  await t.rejects(collect(longer), { ...BAD, message: /has changed while it was read/ })
})

await t.test('a file without a size has content all the same', async (t) => {
  const { pieces, size } = await openContent('/proc/self/status', NOTHING_SAID)
  t.equal(size, undefined)
  t.match((await collect({ pieces, size })).toString(), /^Name:/)
})

await t.test('ended early, all is closed', async (t) => {
  const before = descriptors()
  const sources = {
    raw: file(Buffer.alloc(20 * MIB)),
    sparse: file(sparseImage),
    gzip: file(gzipSync(image)),
    zstd: file(repeated(LARGE.zstd, 10)),
    xz: file(repeated(LARGE.xz, 10)),
  }
  for (const [name, path] of Object.entries(sources)) {
    for (const pulls of [0, 2]) {
      const input = stream(Buffer.from(LARGE.zstd), 100)
      for (const from of [path, input]) {
        const { pieces } = await openContent(from, NOTHING_SAID)
        for (let pull = 0; pull < pulls; pull++) await pieces.next()
        await pieces.return()
        t.strictSame(await pieces.next(), { done: true, value: undefined }, name)
      }
      t.ok(input.destroyed)
    }
    const { pieces } = await openContent(path, NOTHING_SAID)
    await t.rejects(pieces.throw(new Error('mine')), { message: 'mine' })
  }
  t.ok(await closedAgain(before), 'no descriptor is left open')
})

await t.test('an abort ends all, at once and with its reason', async (t) => {
  const before = descriptors()
  const reason = new Error('enough')
  const given = AbortSignal.abort(reason)
  await t.rejects(openContent('/missing', { size: undefined, signal: given }), reason)

  /** Aborts what waits for a stream that gives no more than it has so far. */
  const stalled = async (start: Buffer): Promise<number> => {
    const input = new PassThrough()
    if (start.length > 0) input.write(start)
    const controller = new AbortController()
    let aborted = 0
    setTimeout(() => {
      aborted = performance.now()
      controller.abort(reason)
    }, 50)
    const reading = openContent(input, { size: undefined, signal: controller.signal }).then(collect)
    await t.rejects(reading, reason)
    t.ok(input.destroyed)
    return performance.now() - aborted
  }
  const starts = {
    nothing: Buffer.alloc(0),
    raw: image.subarray(0, 1000),
    sparse: sparseImage.subarray(0, 1000),
    gzip: gzipSync(image).subarray(0, 1000),
    zstd: LARGE.zstd.subarray(0, 1000),
    xz: LARGE.xz.subarray(0, 1000),
  }
  for (const [name, start] of Object.entries(starts)) {
    const milliseconds = await stalled(start)
    t.ok(milliseconds < 100, `${name}: after ${milliseconds.toFixed(1)} ms`)
  }

  for (const packed of [zstdZeros(2 ** 30), repeated(XZ_ZEROS, 64)]) {
    const controller = new AbortController()
    const { pieces } = await openContent(file(packed), {
      size: undefined,
      signal: controller.signal,
    })
    await pieces.next()
    controller.abort(reason)
    await t.rejects(pieces.next(), reason, 'in the middle of unpacking')
  }

  const pipe = join(folder, 'pipe')
  execFileSync('mkfifo', [pipe])
  const opening = openContent(pipe, { size: undefined, signal: AbortSignal.timeout(50) })
  await t.rejects(opening, { name: 'TimeoutError' }, 'a pipe that nobody writes to')
  closeSync(openSync(pipe, 'r+'))
  t.ok(await closedAgain(before), 'no descriptor is left open')
})

await t.test('aborted while the thread that unpacks is starting', async (t) => {
  const path = file(LARGE.zstd)
  // What stays open in this process, as long as it uses threads at all.
  await drain(path)
  const before = descriptors()
  let aborted = 0
  for (let delay = 0; delay < 80; delay++) {
    const controller = new AbortController()
    const timer = setTimeout(() => controller.abort(new Error('enough')), delay)
    await drain(path, undefined, controller.signal).catch(() => aborted++)
    clearTimeout(timer)
  }
  t.ok(aborted > 10, `${aborted} of 80 were aborted`)
  t.ok(await closedAgain(before), 'no descriptor is left open')
})

await t.test('a pipe with a name', async (t) => {
  const pipe = join(folder, 'pipe-2')
  execFileSync('mkfifo', [pipe])
  const packed = file(LARGE.xz)
  const reading = read(pipe)
  execFileSync('sh', ['-c', 'cat "$1" > "$2" &', 'sh', packed, pipe])
  t.ok((await reading).equals(image))

  const writing = ['-c', 'exec > "$1"; head -c 5000000 /dev/zero; exec sleep 60', 'sh', pipe]
  const writer = spawn('sh', writing, { stdio: 'ignore' })
  const { pieces } = await openContent(pipe, NOTHING_SAID)
  t.equal(bytesOf((await pieces.next()).value as Piece).length, MIB)
  await pieces.return()
  t.pass('ended while its writer says nothing')
  writer.kill()
})

await t.test('what unpacks keeps no process alive', (t) => {
  const program = (rest: string): string => `
    import { openContent } from '${new URL('../../../dist/images/content.js', import.meta.url).href}'
    const { pieces } = await openContent('${file(repeated(XZ_ZEROS, 8))}', {})
    await pieces.next()
    ${rest}`
  const run = (rest: string): string =>
    execFileSync(process.execPath, ['--input-type=module', '-e', program(rest)], {
      encoding: 'utf8',
      timeout: 20_000,
    })
  t.equal(run('console.log("left")'), 'left\n', 'nor does it end one that waits')
  t.equal(run('for await (const { data } of pieces) void data; console.log("read")'), 'read\n')
  t.end()
})

await t.test('ten thousand damaged sparse images are refused, or right', async (t) => {
  const seed = Number(process.env.SEED ?? 20_261_125)
  t.comment(`seed ${seed}`)
  const random = randomNumbers(seed)
  const chunks = [
    raw(Buffer.from('0123456789abcdef')),
    fill('wxyz', 3),
    checksum(),
    dontCare(2),
    raw(Buffer.from('the last 8 bytes')),
    dontCare(1),
    checksum(),
  ]
  const whole = sparse(chunks, { blockSize: 8, checksum: true })
  const content = unpacked(chunks, 8)
  let right = 0
  for (let round = 0; round < 10_000; round++) {
    const damaged = Buffer.from(whole)
    for (let count = random(3) + 1; count > 0; count--) {
      // Numbers that are near one another, or near a limit, get further than others.
      const values = [random(256), 0, 255, (damaged[random(whole.length)] ?? 0) ^ (1 << random(8))]
      damaged[4 + random(whole.length - 4)] = values[random(values.length)] ?? 0
    }
    const length = random(8) === 0 ? 4 + random(whole.length - 4) : whole.length
    const from = stream(damaged.subarray(0, length), random(3) === 0 ? 1 + random(40) : 1000)
    try {
      const { pieces, size } = await openContent(from, { size: content.length, signal: undefined })
      const parts: Buffer[] = []
      let bytes = 0
      for await (const piece of pieces) {
        bytes += 'data' in piece ? piece.data.length : piece.length
        if (bytes > content.length) break
        parts.push(bytesOf(piece))
      }
      if (bytes > content.length) t.fail(`round ${round}: ${bytes} bytes`)
      if (size !== content.length || !Buffer.concat(parts).equals(content)) {
        t.fail(`round ${round}: accepted, and wrong`)
      }
      right++
    } catch (error) {
      if ((error as DmloopError).code !== 'DMLOOP_BAD_IMAGE') throw error
    }
  }
  t.ok(right > 100 && right < 5000, `${right} of them do no damage`)
})
