// createImage on this machine’s own filesystem, beside dd, simg2img and the tools that unpack, in turn:
// create.js [FOLDER [MIB]]. It needs img2simg and simg2img (Debian: android-sdk-libsparse-utils), gzip, zstd and xz.
// All but dd leave what they write in the page cache, and simg2img holes for what has no content: sync is part of
// their time.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, openSync, rmSync, writeSync, closeSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { createImage } from 'dmloop'
import { milliseconds, PAIRS, report, spread } from './measure.js'
import { watchMemory } from './resident.js'
import type { Row } from './results.js'

const [parent = tmpdir(), mebibytes = '1024'] = process.argv.slice(2)
const MEBIBYTE = 1 << 20
const size = Number(mebibytes) * MEBIBYTE
const folder = mkdtempSync(join(parent, 'dmloop-bench-'))
process.once('exit', () => rmSync(folder, { recursive: true }))
const raw = join(folder, 'raw')
const sparse = join(folder, 'sparse')
const gzip = join(folder, 'raw.gz')
const zstd = join(folder, 'raw.zst')
const xz = join(folder, 'raw.xz')
const made = join(folder, 'made')
const run = (command: string, ...args: string[]): void =>
  void execFileSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] })

/** Every second 16 MiB have content. */
function makeSources(): void {
  const file = openSync(raw, 'w')
  const block = randomBytes(16 * MEBIBYTE)
  for (let offset = 0; offset < size; offset += 2 * block.length) {
    writeSync(file, block, 0, block.length, offset)
    writeSync(file, Buffer.alloc(block.length), 0, block.length, offset + block.length)
  }
  closeSync(file)
  run('img2simg', raw, sparse)
  run('gzip', '--keep', '--fast', raw)
  run('zstd', '--quiet', raw)
  run('xz', '--keep', '-0', '--threads=0', raw)
  run('sync', '--file-system', folder)
}

/** Bytes that a call takes at most besides what the process had. */
async function peakOf(work: () => Promise<unknown>): Promise<number> {
  const peak = watchMemory()
  await work()
  return peak()
}

function unpack(tool: string, from: string): void {
  const to = openSync(made, 'w')
  execFileSync(tool, ['--decompress', '--stdout', from], { stdio: ['ignore', to, 'inherit'] })
  closeSync(to)
  run('sync', made)
}

const create = (from: string): Promise<string[]> => createImage(made, { from })
const remove = (): void => rmSync(made, { force: true })

const OTHERS: Record<string, { from: string; other: () => void }> = {
  'dd bs=4M oflag=direct conv=fsync': {
    from: raw,
    other: () =>
      run('dd', `if=${raw}`, `of=${made}`, 'bs=4M', 'oflag=direct', 'conv=fsync', 'status=none'),
  },
  'simg2img; sync': {
    from: sparse,
    other: () => {
      run('simg2img', sparse, made)
      run('sync', made)
    },
  },
  simg2img: { from: sparse, other: () => run('simg2img', sparse, made) },
  'gzip --decompress; sync': { from: gzip, other: () => unpack('gzip', gzip) },
  'zstd --decompress; sync': { from: zstd, other: () => unpack('zstd', zstd) },
  'xz --decompress; sync': { from: xz, other: () => unpack('xz', xz) },
}

makeSources()
const rows: Row[] = []
for (const [name, { from, other }] of Object.entries(OTHERS)) {
  const ratios: number[] = []
  const memory: number[] = []
  const speeds: number[] = []
  for (let round = 0; round < PAIRS; round++) {
    const theirs = await milliseconds(other)
    remove()
    let own = 0
    memory.push(
      (await peakOf(async () => (own = await milliseconds(() => create(from))))) / MEBIBYTE,
    )
    remove()
    ratios.push(theirs / own)
    speeds.push(size / MEBIBYTE / (own / 1000))
  }
  rows.push({
    from: basename(from),
    'image, MiB': size / MEBIBYTE,
    'compared with': name,
    'createImage, MiB/s': spread(speeds),
    'speed / of that': spread(ratios),
    'peak RSS over idle, MiB': spread(memory),
  })
}
report('create', 'createImage on this machine', rows)
