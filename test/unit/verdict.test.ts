import t from 'tap'
import type { BackingFile } from '#lib/plan/backing-file.js'
import { DmloopError, problem } from '#lib/kernel/errors.js'
import type { Ranges } from '#lib/kernel/native.js'
import { EXTENT_FLAGS, POLICY, type DmloopCode } from '#lib/kernel/policy.js'
import { sliceFiles } from '#lib/plan/range.js'
import { judgeExtents, judgeFile } from '#lib/plan/verdict.js'

const CLEAN_FILE = { readOnly: false }
const CLEAN = { holes: 'reject' } as const

type Row = [logical: number, physical: number, length: number, flags: number]

const rangesOf = (found: readonly [offset: number, length: number][]): Ranges => ({
  count: found.length,
  offset: found[0]?.[0] ?? 0,
  length: found[0]?.[1] ?? 0,
})

/** Facts of extents, summed up as the native half does. */
function facts(
  rows: Row[],
  { holes = [], blockSize = 512 }: { holes?: [number, number][]; blockSize?: number } = {},
): Parameters<typeof judgeExtents>[1] {
  const ranges = (wanted: (row: Row) => boolean): Ranges =>
    rangesOf(rows.filter(wanted).map(([logical, , length]) => [logical, length]))
  const kinds = [...new Set(rows.map(([, , , flags]) => flags))].filter((flags) => flags !== 0)
  return {
    holes: rangesOf(holes),
    unaligned: ranges((row) => row.slice(0, 3).some((bytes) => bytes % blockSize !== 0)),
    flagged: kinds.map((flags) => ({ flags, ...ranges((row) => row[3] === flags) })),
  }
}

await t.test('every extent flag has its verdict', (t) => {
  for (const [name, { bit, code }] of Object.entries(EXTENT_FLAGS)) {
    const found = judgeExtents(
      'f',
      facts([
        [0, 4096, 4096, 0],
        [4096, 0, 8192, bit | 1],
      ]),
      CLEAN,
    )
    t.match(found, [{ code, file: 'f', offset: 4096, length: 8192 }], name)
    t.equal(found.length, 1)
  }
  t.strictSame(judgeExtents('f', facts([[0, 4096, 4096, 0x1001]]), CLEAN), [], 'LAST, MERGED')
  t.match(
    judgeExtents('f', facts([[0, 4096, 4096, 0x20000000]]), CLEAN),
    [{ code: 'DMLOOP_UNALLOCATED_EXTENT' }],
    'a flag of the future',
  )
  t.match(
    judgeExtents('f', facts([[0, 0, 512, 0x200 | 0x100 | 0x1]]), CLEAN),
    [{ code: 'DMLOOP_INLINE_DATA' }],
    'inline data is told as such, though it is not aligned either',
  )
  t.end()
})

await t.test('holes, unwritten ranges and alignment', (t) => {
  const both = facts(
    [
      [0, 4096, 4096, 0x800],
      [8192, 8192, 4096, 0x800 | 1],
    ],
    {
      holes: [
        [4096, 4096],
        [12288, 512],
      ],
    },
  )
  const found = judgeExtents('f', both, CLEAN)
  t.match(found, [
    { code: 'DMLOOP_UNWRITTEN_EXTENT', offset: 0, length: 4096 },
    { code: 'DMLOOP_HOLE', offset: 4096, length: 4096, message: /2 such ranges/ },
  ])
  t.strictSame(judgeExtents('f', both, { ...CLEAN, holes: 'zero' }), [])
  const odd: Row[] = [
    [0, 4096, 4096, 0],
    [4096, 1024, 4096, 0],
  ]
  t.strictSame(judgeExtents('f', facts(odd), CLEAN), [])
  t.match(judgeExtents('f', facts(odd, { blockSize: 4096 }), CLEAN), [
    { code: 'DMLOOP_UNALIGNED_EXTENT', offset: 4096, length: 4096 },
  ])
  t.strictSame(judgeExtents('f', facts([]), CLEAN), [])
  t.end()
})

const file = (path: string, size: number, more: object = {}): BackingFile =>
  ({
    path,
    size,
    identity: path,
    blockSize: 512,
    deviceSize: 1 << 30,
    uses: { swap: false, loops: [] },
    filesystem: { name: 'ext4', options: [] },
    facts: { attributes: 0, inodeFlags: 0, extendedFlags: 0, filesystemSize: 1 << 29 },
    ...more,
  }) as unknown as BackingFile

await t.test('files as a whole', (t) => {
  const judge = (more: object): (DmloopCode | undefined)[] =>
    judgeFile(file('f', 1, more), CLEAN_FILE).map(({ code }) => code)
  const on = (name: string, options: string[] = []): object => ({ filesystem: { name, options } })
  for (const name of ['ext2', 'ext3', 'ext4', 'xfs', 'f2fs', 'vfat']) {
    t.strictSame(judge(on(name)), [], name)
  }
  t.strictSame(judge(on('btrfs')), ['DMLOOP_COPY_ON_WRITE'])
  for (const name of [
    'overlay',
    'tmpfs',
    'fuse',
    'nfs',
    '9p',
    'hostfs',
    'bcachefs',
    'zfs',
    'ntfs3',
    'exfat',
    'erofs',
    'squashfs',
    '0xdeadbeef',
  ]) {
    t.strictSame(judge(on(name)), ['DMLOOP_UNSUPPORTED_FILESYSTEM'], name)
  }
  t.strictSame(judge(on('ext4', ['rw', 'data=journal'])), ['DMLOOP_DATA_JOURNALED'])
  for (const option of ['noload', 'norecovery']) {
    t.strictSame(judge(on('ext4', [option])), ['DMLOOP_UNSUPPORTED_FILESYSTEM'], option)
  }
  const readOnly = { filesystem: { name: 'ext4', options: ['ro'], readOnly: true } }
  t.strictSame(judge(readOnly), ['DMLOOP_READ_ONLY'])
  t.strictSame(judgeFile(file('f', 1, readOnly), { readOnly: true }), [])
  const attribute = (more: object): object => ({
    facts: { attributes: 0, inodeFlags: 0, extendedFlags: 0, filesystemSize: 0, ...more },
  })
  const sealed = attribute({ attributes: 0x100000 })
  t.strictSame(judge(sealed), ['DMLOOP_READ_ONLY'], 'fs-verity')
  t.strictSame(judgeFile(file('f', 1, sealed), { readOnly: true }), [], 'fs-verity, read-only')
  t.strictSame(judge(attribute({ attributes: 0x200000 })), ['DMLOOP_UNSUPPORTED_FILESYSTEM'], 'DAX')
  t.strictSame(judge(attribute({ inodeFlags: 0x10000000 })), ['DMLOOP_INLINE_DATA'])
  t.strictSame(
    judge(attribute({ filesystemSize: (1 << 30) + 4096 })),
    ['DMLOOP_UNSUPPORTED_FILESYSTEM'],
    'a filesystem over several devices',
  )
  t.strictSame(judge({ uses: { swap: true, loops: [] } }), ['DMLOOP_SWAPFILE'])
  const journal = { uses: { swap: false, filesystem: 'the journal', loops: [] } }
  t.match(judgeFile(file('f', 1, journal), { readOnly: true }), [
    { code: 'DMLOOP_FILESYSTEM_FILE', message: /is the journal of its filesystem/, blocks: 'all' },
  ])
  t.match(judgeFile(file('f', 1, { uses: { swap: false, loops: ['/dev/loop7'] } }), CLEAN_FILE), [
    { code: 'DMLOOP_ALREADY_MAPPED', message: /\/dev\/loop7/ },
  ])
  t.strictSame(judge(attribute({ attributes: 0x4 })), ['DMLOOP_ENCODED_EXTENT'])
  t.strictSame(judge(attribute({ attributes: 0x800 })), ['DMLOOP_ENCRYPTED'])
  t.strictSame(judge(attribute({ inodeFlags: 0x4000 })), ['DMLOOP_DATA_JOURNALED'])
  t.strictSame(judge(attribute({ extendedFlags: 0x1 })), ['DMLOOP_REALTIME_FILE'])
  t.end()
})

await t.test('ranges', (t) => {
  const slice = (files: BackingFile[], offset = 0, length?: number): object => {
    const range = sliceFiles(files, { offset, length, guard: 'immutable' })
    return range.problems[0]
      ? { code: range.problems[0].code }
      : {
          size: range.size,
          ...(range.tailBytes > 0 && { tail: range.tailBytes }),
          slices: range.slices.map(({ file, offset, length }) => [file.path, offset, length]),
        }
  }
  const a = file('a', 4096)
  const b = file('b', 1536)
  const c = file('c', 700)
  t.strictSame(slice([a]), { size: 4096, slices: [['a', 0, 4096]] })
  t.strictSame(slice([c]), { size: 512, tail: 188, slices: [['c', 0, 512]] }, 'less the tail')
  t.strictSame(slice([c], 0, 512), { size: 512, slices: [['c', 0, 512]] }, 'as asked')
  t.strictSame(slice([a, b, c]), {
    size: 6144,
    tail: 188,
    slices: [
      ['a', 0, 4096],
      ['b', 0, 1536],
      ['c', 0, 512],
    ],
  })
  t.strictSame(slice([a, b], 3584, 1024), {
    size: 1024,
    slices: [
      ['a', 3584, 512],
      ['b', 0, 512],
    ],
  })
  t.strictSame(slice([a, b], 4096), { size: 1536, slices: [['b', 0, 1536]] })
  t.strictSame(slice([a, b, a]), { code: 'DMLOOP_ALREADY_MAPPED' }, 'a file twice')
  t.strictSame(slice([c, a]), { code: 'DMLOOP_UNALIGNED' }, 'a ragged file in the middle')
  t.strictSame(slice([a], 100), { code: 'DMLOOP_UNALIGNED' })
  t.strictSame(slice([a], 0, 100), { code: 'DMLOOP_UNALIGNED' })
  t.strictSame(slice([a], 4096), { code: 'DMLOOP_OUT_OF_RANGE' })
  t.strictSame(slice([a], 512, 4096), { code: 'DMLOOP_OUT_OF_RANGE' })
  t.strictSame(slice([a], 2 ** 52, 512), { code: 'DMLOOP_OUT_OF_RANGE' })
  const TOO_LARGE = { code: 'DMLOOP_TOO_LARGE' }
  t.strictSame(slice([file('h', 2 ** 52), file('i', 2 ** 52)]), TOO_LARGE, 'together')
  t.strictSame(slice([a], 2 ** 53 - 512, 512), TOO_LARGE, 'the end of the range')
  t.strictSame(slice([a], 2 ** 53 - 1, 2 ** 53 - 1), TOO_LARGE)
  t.strictSame(slice([a], 2 ** 53 - 512), { code: 'DMLOOP_OUT_OF_RANGE' })
  t.strictSame(slice([file('e', 0)]), { code: 'DMLOOP_EMPTY_FILE' })
  t.strictSame(slice([file('e', 511)]), { code: 'DMLOOP_EMPTY_FILE' })
  const native = file('d', 8192, { blockSize: 4096 })
  t.strictSame(slice([native], 512), { code: 'DMLOOP_UNALIGNED' }, 'a disk of 4096-byte blocks')
  t.strictSame(slice([file('d', 8191, { blockSize: 4096 })]), {
    size: 4096,
    tail: 4095,
    slices: [['d', 0, 4096]],
  })
  const small = sliceFiles(
    [file('d', 8191, { blockSize: 4096 })],
    { offset: 512, length: undefined, guard: 'immutable' },
    512,
  )
  t.match(small, { blockSize: 512, size: 7168, tailBytes: 511, problems: [] }, 'blocks as asked')
  t.end()
})

await t.test('every verdict has words for people', (t) => {
  for (const code of Object.keys(POLICY) as DmloopCode[]) {
    const found = problem(code, { file: '/f', offset: 512, length: 1024 })
    t.match(found.message, /^\/f: .*\(bytes 512 to 1535\)\.$/, code)
    t.ok(found.remedy.endsWith('.') || found.remedy.includes(':'), found.remedy)
    const error = new DmloopError(found)
    t.match(error, { name: 'DmloopError', code, file: '/f', offset: 512, length: 1024 })
    t.equal(error.message, `${found.message} ${found.remedy}`)
  }
  t.end()
})
