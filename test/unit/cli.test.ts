// The command without a kernel: its words, its help, its drawings, and what it makes of the library's errors.
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import {
  DmloopError,
  Plan,
  SegmentTable,
  type ExtentTable,
  type MappedDevice,
  type StoredImage,
} from 'dmloop'
import { parseSize } from '#lib/cli/arguments.js'
import { runCommand } from '#lib/cli/command.js'
import { COMMON, optionOf } from '#lib/cli/options.js'
import { progressLine, Screen, type Output } from '#lib/cli/screen.js'
import { drawStorage, fillColumns } from '#lib/cli/storage.js'
import { formatBytes, printable, shortBytes } from '#lib/cli/text.js'
import type { Library } from '#lib/cli/verb.js'
import { IMAGE_VERBS } from '#lib/cli/image/verbs.js'
import { VERBS } from '#lib/cli/verbs.js'
import { inCommandWords } from '#lib/cli/words.js'
import { invalidValue, outOfRange, problem, systemError } from '#lib/kernel/errors.js'
import { POLICY } from '#lib/kernel/policy.js'
import { misfits } from '../tools/json-shape.js'

class Written implements Output {
  text = ''
  constructor(
    readonly isTTY = false,
    readonly columns = 100,
  ) {}
  write(text: string): void {
    this.text += text
  }
}

interface Run {
  status: number
  out: string
  err: string
}

interface Terminal {
  terminal?: boolean
  env?: Record<string, string>
  stdin?: Readable
}

/** Runs the command with a library of which only some functions are there. */
async function run(
  words: string[],
  library: Partial<Library> = {},
  { terminal = false, env = {}, stdin = Readable.from([]) }: Terminal = {},
): Promise<Run> {
  const [stdout, stderr] = [new Written(terminal), new Written(terminal)]
  const status = await runCommand(words, { stdin, stdout, stderr, env }, library as Library)
  return { status, out: stdout.text, err: stderr.text }
}

const fakeDevice = (name: string, more: Partial<MappedDevice> = {}): MappedDevice =>
  ({
    name,
    path: `/dev/mapper/${name}`,
    major: 253,
    minor: 1,
    uuid: 'DMLOOP-1',
    backend: 'linear',
    directIo: true,
    readOnly: false,
    size: 1 << 30,
    segmentCount: 2,
    files: [`/srv/${name}`],
    fallback: [],
    partitions: [],
    partitionProblems: [],
    unmap: () => Promise.resolve(),
    verify: () => Promise.resolve({ ok: true, problems: [] }),
    ...more,
  }) as unknown as MappedDevice

/** A plan of extents on one disk, or on those of its files; no kernel has it, so its size is unknown. */
function fakePlan(
  rows: number[][],
  files = [{ size: 2 ** 40, device: '0:9999' }],
  problems: Plan['problems'] = [],
): Plan {
  const packed = Float64Array.from(rows.flat())
  const extents = {
    length: rows.length,
    packed,
    *[Symbol.iterator]() {
      for (const [logical, physical, length, flags] of rows) {
        yield { logical, physical, length, flags }
      }
    },
  } as unknown as ExtentTable
  const segments = new SegmentTable(
    Float64Array.from(
      rows.flatMap(([at = 0, to = 0, size = 0]) => [at / 512, size / 512, 0, to / 512]),
    ),
    ['0:9999'],
  )
  const planned = files.map(({ size, device }, at) => ({
    path: `/srv/${at}`,
    filesystem: 'ext4',
    blockSize: 512,
    guard: 'immutable' as const,
    size,
    device,
  }))
  return new Plan({
    problems,
    size: rows.reduce((sum, [, , size = 0]) => sum + size, 0),
    tailBytes: 0,
    readOnly: false,
    files: planned,
    extents,
    segments,
    backend: 'linear',
    fallback: [],
  })
}

const hole = problem('DMLOOP_HOLE', { file: '/srv/a', offset: 0, length: 4096 })
const shared = problem('DMLOOP_SHARED_EXTENT', { file: '/srv/a' })
const verdict = new DmloopError(hole, [hole, shared])

const shaped = (t: Test, type: string, { out }: Run): unknown => {
  const document = JSON.parse(out) as unknown
  t.strictSame(misfits(type, document), [], `${type} is of its type`)
  return document
}

// --- words ------------------------------------------------------------------------------------------

await t.test('sizes as util-linux has them', (t) => {
  for (const [text, bytes] of [
    ['0', 0],
    ['4096', 4096],
    ['1K', 1024],
    ['1KiB', 1024],
    ['1k', 1024],
    ['1KB', 1000],
    ['3M', 3 << 20],
    ['3MB', 3_000_000],
    ['1.5G', 1.5 * 2 ** 30],
    ['2TiB', 2 ** 41],
    ['1P', 2 ** 50],
    ['7.5PB', 7.5e15],
  ] as const) {
    t.equal(parseSize(text, 'size'), bytes, text)
  }
  for (const text of [
    '',
    'K',
    '-1',
    '1.',
    '1 K',
    '1X',
    '1Ki',
    '0x10',
    '1e3',
    '0.1',
    '8P',
    '1.0000001K',
  ]) {
    t.throws(() => parseSize(text, 'size'), { code: 'DMLOOP_USAGE', message: /^--size/ }, text)
  }
  t.end()
})

await t.test('options are those of the library', async (t) => {
  let called: unknown[] = []
  const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value))
  const record =
    <T>(value: T) =>
    (...args: unknown[]): Promise<T> => {
      called = args
      return Promise.resolve(value)
    }
  const library: Partial<Library> = {
    planFile: record(fakePlan([[0, 0, 4096, 0]])),
    mapFile: record(fakeDevice('a')),
    wrapDevice: record(fakeDevice('w')),
    releaseFile: record(undefined),
    createImage: record(['/srv/a.0000', '/srv/a.0001']),
    provisionFile: record(undefined),
  }
  const { signal } = new AbortController()
  const calls: [words: string, args: unknown[], out?: string][] = [
    ['plan a', [['a'], {}]],
    [
      'plan -o 1M --sizelimit=64K -r --holes=zero --backend auto -b 4K --guard=none a b',
      [
        ['a', 'b'],
        {
          offset: 1 << 20,
          length: 1 << 16,
          readOnly: true,
          holes: 'zero',
          backend: 'auto',
          blockSize: 4096,
          guard: 'none',
        },
      ],
    ],
    ['map a', [['a'], { signal }], '/dev/mapper/a\n'],
    [
      'map -rP --name=x --no-udev-scan --verify=full --timeout=1.5 -- -a',
      [
        ['-a'],
        {
          ...{ readOnly: true, partitions: true, name: 'x', udevScan: false, verify: 'full' },
          ...{ timeout: 1500, signal },
        },
      ],
      '/dev/mapper/a\n',
    ],
    ['map --fence a', [['a'], { fence: true, signal }]],
    ['wrap /dev/sda w', ['/dev/sda', { name: 'w' }], '/dev/mapper/w\n'],
    ['wrap --no-udev-scan /dev/sda w', ['/dev/sda', { name: 'w', udevScan: false }]],
    ['release a', ['a'], ''],
    ['create --size=1G a', ['a', { size: 1 << 30, signal }], '/srv/a.0000\n/srv/a.0001\n'],
    [
      'create --from=b --sha256=00 --max-extents=3 --max-file-size=2GiB --overwrite a',
      [
        'a',
        {
          ...{ from: 'b', sha256: '00', maxExtents: 3, maxFileSize: 2 ** 31, overwrite: true },
          signal,
        },
      ],
    ],
    ['provision --timeout=0 a', ['a', { timeout: 0, signal }], ''],
  ]
  for (const [words, args, out] of calls) {
    const result = await run(words.split(' '), library)
    t.match(result, { status: 0, err: '' }, words)
    t.strictSame(plain(called), plain(args), words)
    if (out !== undefined) t.equal(result.out, out, words)
  }
  const stdin = Readable.from(['content'])
  await run(['create', '--from=-', 'a'], library, { stdin })
  t.equal((called[1] as { from: Readable }).from, stdin, '- is standard input')
  t.ok(stdin.destroyed, 'which keeps no process alive')
})

await t.test('the verbs of images are the methods of a store', async (t) => {
  const called: unknown[] = []
  const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value))
  const image: StoredImage = {
    ...{ name: 'a', size: 1 << 30, readOnly: false, partitions: false, disabled: false },
    ...{ files: ['/srv/a.img'], segmentCount: 3 },
  }
  const results: Record<string, unknown> = {
    create: image,
    list: [image, { ...image, name: 'longer', readOnly: true, disabled: true }],
    get: image,
    isMapped: true,
    map: fakeDevice('a', { partitionProblems: [hole] }),
    mapAll: {
      mapped: [{ name: 'a', path: '/dev/mapper/a' }],
      problems: [{ name: 'b', problem: hole }],
    },
    validate: { ok: false, problems: [hole] },
    removeDisabled: ['a', 'b'],
    exportBoot: ['/etc/a', '/etc/b'],
    importLpMetadata: [image],
  }
  const store = new Proxy(
    {},
    {
      get: (_, method: string) =>
        method === 'then'
          ? undefined
          : (...args: unknown[]) => {
              if (method !== 'isMapped') called.push(method, ...args)
              return Promise.resolve(results[method])
            },
    },
  )
  const open = (...args: unknown[]): Promise<unknown> => {
    called.splice(0, called.length, ...args)
    return Promise.resolve(store)
  }
  const library = { ImageStore: { open } } as unknown as Library
  const { signal } = new AbortController()
  const calls: [words: string, args: unknown[], out: string | RegExp, status?: number][] = [
    [
      'create --size=1G --max-file-size=1M -rP d a',
      [
        ...['create', 'a'],
        {
          ...{ size: 1 << 30, maxFileSize: 1 << 20, readOnly: true, partitions: true },
          signal,
        },
      ],
      '/srv/a.img\n',
    ],
    [
      'list d',
      ['list'],
      `NAME    SIZE  RO  MAPPED  DISABLED  SEGMENTS  FILES
a       1G    0   1       0         3         /srv/a.img
longer  1G    1   1       1         3         /srv/a.img
`,
    ],
    ['list -nb d a', ['get', 'a'], 'a  1073741824  0  1  0  3  /srv/a.img\n'],
    [
      'map --fence --name=x --timeout=1 d a',
      ['map', 'a', { fence: true, name: 'x', timeout: 1000, signal }],
      '/dev/mapper/a\n',
    ],
    ['map-all --fence d', ['mapAll', { fence: true, signal }], '/dev/mapper/a\n', 1],
    ['unmap --deferred d a', ['unmap', 'a', { deferred: true, signal }], ''],
    ['validate d a', ['validate', 'a'], /^a: 1 problem\n.*hole/, 1],
    ['validate d', ['list', 'validate', 'a', 'validate', 'longer'], /longer: 1/, 1],
    ['resize --size=2G d a', ['resize', 'a', 2 ** 31, { signal }], ''],
    ['delete d a b', ['delete', 'a', 'delete', 'b'], ''],
    ['delete --all d', ['list', 'removeAll'], ''],
    ['disable d a', ['disable', 'a'], ''],
    ['remove-disabled d', ['removeDisabled'], 'a\nb\n'],
    [
      'boot --for=dracut --root=/x --wrap=r=/dev/a=b d',
      ['exportBoot', 'dracut', { root: '/x', wrappers: [{ name: 'r', device: '/dev/a=b' }] }],
      '/etc/a\n/etc/b\n',
    ],
    ['export-lp d f', ['exportLpMetadata', 'f', {}], ''],
    [
      'export-lp --super=super --super-size=1G d f',
      ['exportLpMetadata', 'f', { super: { name: 'super', size: 1 << 30 } }],
      '',
    ],
    ['import-lp --slot=1 -P d f', ['importLpMetadata', 'f', { slot: 1, partitions: true }], 'a\n'],
  ]
  for (const [words, args, out, status = 0] of calls) {
    const list = ['image', ...words.split(' ')]
    const result = await run([...list, '--metadata=m'], library)
    t.equal(result.status, status, words)
    if (typeof out === 'string') t.equal(result.out, out, words)
    else t.match(result.out, out, words)
    t.strictSame(plain(called), plain(['d', { metadata: 'm' }, ...args]), words)
    const json = await run([...list, '--json'], library)
    t.match(json, { status, err: '' }, `${words}, JSON`)
    shaped(t, `image ${words.split(' ')[0] ?? ''}`, json)
  }
  t.match((await run(['image', 'map', 'd', 'a'], library)).err, /partition table.*\n.*hole/)
  t.match((await run(['image', 'map-all', 'd'], library)).err, /^dmloop: b: .*hole/)
  t.strictSame(
    [...new Set(calls.map(([words]) => words.split(' ')[0]))].sort(),
    IMAGE_VERBS.map(({ name }) => name.replace('image ', '')).sort(),
  )
})

await t.test('what a command line does not say: one line, and exit status 2', async (t) => {
  const never = (): never => t.fail('nothing is called') as never
  const library: Partial<Library> = { mapFile: never, createImage: never, openMapping: never }
  for (const [words, message] of [
    ['plann a', /plann is not a verb/],
    ['help plann', /plann is not a verb/],
    ['image plann a', /image plann is not a verb/],
    ['help image plann', /image plann is not a verb/],
    ['image map a', /DIRECTORY NAME is missing/],
    ['image resize a b', /--size is missing/],
    ['image boot a', /--for is missing/],
    ['image boot --for=grub a', /--for must be one of initramfs-tools/],
    ['image boot --for=dracut --wrap=/dev/sda a', /--wrap must be NAME=DEVICE/],
    ['image delete a', /name an image, or say --all/],
    ['image delete --all a b', /--all leaves nothing to name/],
    ['image export-lp --super=super a b', /--super and --super-size go together/],
    ['--foo', /--foo is not a verb/],
    ['map', /FILE \.\.\. is missing/],
    ['map --foo a', /'--foo'/],
    ['map -x a', /'-x'/],
    ['map --offset', /--offset/],
    ['map --offset a', /--offset must be a size/],
    ['map --read-only=yes a', /--read-only/],
    ['map --holes=zeros a', /--holes must be one of reject, zero; received "zeros"/],
    ['map --timeout=1h a', /--timeout must be a number of seconds/],
    ['create --max-extents=1K a', /--max-extents must be a whole number/],
    ['create a b', /too many operands; expected FILE/],
    ['wrap /dev/sda', /DEVICE NAME is missing/],
    ['unmap', /name a mapping, or say --all/],
    ['unmap --all a', /--all leaves nothing to name/],
    ['verify', /name a mapping/],
    ['plan --table --json a', /exclude each other/],
  ] as const) {
    const list = words.split(' ')
    const { status, out, err } = await run(list, library)
    t.equal(status, 2, words)
    if (list.includes('--json')) continue
    t.equal(out, '', words)
    t.match(err, /^dmloop: .*\. Try: dmloop help( [\w -]+)?\n$/, words)
    t.match(err, message, words)
  }
  const json = await run(['map', '--offset=x', '--json', 'a'], library)
  t.equal(json.status, 2)
  t.match(shaped(t, 'FailureJson', json), { error: { code: 'DMLOOP_USAGE', message: /--offset/ } })
  t.match(await run([]), { status: 2, out: '', err: /Usage: dmloop VERB/ }, 'no words at all')
})

await t.test('the library’s own checks are usage, in the command’s words', async (t) => {
  for (const [error, message] of [
    [
      invalidValue('options.blockSize', `given only together with backend: 'loop'`, 512),
      /--sector-size .* --backend=loop/,
    ],
    [
      invalidValue('options.holes', `'zero' only together with readOnly: true`, 'zero'),
      /--holes .* --read-only/,
    ],
    [outOfRange('options.length', 'a safe integer of at least 1', 0), /--sizelimit must be/],
  ] as const) {
    const result = await run(['map', 'a'], { mapFile: () => Promise.reject(error) })
    t.match(result, { status: 2, out: '', err: message })
  }
  // Those of the real one.
  const { status, err } = await run(['plan', '--holes=zero', 'a'], await import('dmloop'))
  t.equal(status, 2)
  t.match(err, '--holes')
})

// --- help -------------------------------------------------------------------------------------------

await t.test('help', async (t) => {
  const general = await run(['--help'])
  t.match(general, { status: 0, err: '' })
  t.equal((await run(['help'])).out, general.out)
  const images = await run(['image', '--help'])
  t.match(images, { status: 0, err: '' })
  t.equal((await run(['help', 'image'])).out, images.out)
  t.match(await run(['image']), { status: 2, out: '', err: images.out })
  for (const { name, summary, examples, options } of [...VERBS, ...IMAGE_VERBS]) {
    const words = name.split(' ')
    const overview = words.length === 1 ? general.out : images.out
    t.ok(overview.includes(`  ${name} `) && overview.includes(summary), name)
    const help = await run(['help', ...words])
    t.match(help, { status: 0, err: '' }, name)
    t.equal((await run([...words, '--help'])).out, help.out, `${name} --help`)
    t.equal((await run([...words, '-h', '--json'])).out, help.out, `${name} -h`)
    t.ok(
      examples.length > 0 && examples.every((each) => each.includes(`dmloop ${name}`)),
      'example',
    )
    for (const each of examples) t.ok(help.out.includes(`  ${each}\n`), each)
    for (const key of [...options, ...COMMON])
      t.ok(help.out.includes(`--${optionOf(key).flag}`), key)
    const shorts = [...options, ...COMMON].flatMap((key) => optionOf(key).short ?? [])
    t.equal(new Set(shorts).size, shorts.length, 'no letter has two meanings')
    const long = `${overview}${help.out}`.split('\n').filter((line) => line.length > 80)
    t.strictSame(long, [], 'it fits a terminal')
  }
  t.match(await run(['--version']), { status: 0, out: /^dmloop \d+\.\d+\.\d+\n$/ })
})

// --- errors -----------------------------------------------------------------------------------------

const failure = systemError({ errno: -5, syscall: 'DM_TABLE_LOAD' }, '/dev/x')

await t.test('exit status and words of each class of failure', async (t) => {
  const fails = (error: Error): Partial<Library> => ({
    mapFile: () => Promise.reject(error),
  })
  const refused = await run(['map', 'a'], fails(verdict))
  t.strictSame(refused, {
    status: 1,
    out: '',
    err:
      'dmloop: /srv/a: has a hole (bytes 0 to 4095).\n' +
      '  Fill it with zeros: dmloop provision; or map read-only with --holes=zero.\n' +
      'dmloop: /srv/a: shares blocks with another file (reflink, snapshot or dedupe).\n' +
      '  Give it blocks of its own: dmloop provision on xfs; or make a copy, cp --reflink=never FILE COPY.\n',
  })
  t.match(await run(['map', 'a'], fails(failure)), {
    status: 3,
    out: '',
    err: "dmloop: EIO: DM_TABLE_LOAD '/dev/x'\n",
  })
  t.match(await run(['map', 'a'], fails(new Error('unforeseen'))), {
    status: 3,
    err: /unforeseen[^]*cli\.test/,
  })
  const undone = Object.assign(new DmloopError(hole), { cause: failure })
  t.match((await run(['map', 'a'], fails(undone))).err, /Cause: EIO/)

  const { blocks: _, ...range } = hole
  for (const [error, status, expected] of [
    [verdict, 1, { ...range, problems: [hole, shared] }],
    [failure, 3, { code: 'EIO', errno: -5, syscall: 'DM_TABLE_LOAD', path: '/dev/x' }],
    [new Error('unforeseen'), 3, { code: 'ERR_UNEXPECTED', message: 'unforeseen' }],
  ] as const) {
    const result = await run(['map', '-J', 'a'], fails(error))
    t.match(result, { status, err: '' })
    t.match(shaped(t, 'FailureJson', result), { error: expected })
  }
})

await t.test('only root is not told to be root', async (t) => {
  const mapFile = (): Promise<never> =>
    Promise.reject(systemError({ errno: -13, syscall: 'open' }, '/dev/mapper/control'))
  const geteuid = process.geteuid?.bind(process) ?? (() => 0)
  t.teardown(() => (process.geteuid = geteuid))
  for (const [id, hint] of [
    [0, false],
    [1000, true],
  ] as const) {
    process.geteuid = () => id
    const { status, err } = await run(['map', 'a'], { mapFile })
    t.strictSame([status, err.includes('Run it as root')], [3, hint])
  }
})

await t.test('remedies name what the command has', (t) => {
  const code = /\w\(\)|[a-z]{2}[A-Z]|\b\w+: (true|[‘'])|[{}`]/
  for (const [name, { remedy, found }] of Object.entries(POLICY)) {
    for (const text of [remedy, found]) t.notMatch(inCommandWords(text), code, name)
  }
  t.equal(inCommandWords('unmap with { deferred: true }'), 'unmap with --deferred')
  t.equal(
    inCommandWords('then call unmap() or releaseFile()'),
    'then call dmloop unmap or dmloop release',
  )
  t.end()
})

await t.test('several operands: each is tried, and the worst counts', async (t) => {
  const unmapped: string[] = []
  const library: Partial<Library> = {
    openMapping: (name) => {
      if (name === 'none') return Promise.reject(new DmloopError(problem('DMLOOP_NOT_MAPPED')))
      const unmap = (): Promise<void> => {
        if (name === 'bad') return Promise.reject(failure)
        unmapped.push(name)
        return Promise.resolve()
      }
      const problems = name === 'off' ? [hole] : []
      const verify = () => Promise.resolve({ ok: problems.length === 0, problems })
      return Promise.resolve(fakeDevice(name, { unmap, verify }))
    },
    releaseFile: (file) => (file === 'bad' ? Promise.reject(verdict) : Promise.resolve()),
  }
  const result = await run(['unmap', 'none', 'a', 'bad', 'b'], library)
  t.strictSame(unmapped, ['a', 'b'])
  t.match(result, { status: 3, out: '', err: /^dmloop: is not mapped[^]*\ndmloop: EIO/ })
  t.match(shaped(t, 'unmap', await run(['unmap', '--json', 'none', 'a'], library)), {
    results: [
      { operand: 'none', error: { code: 'DMLOOP_NOT_MAPPED' } },
      { operand: 'a', device: { name: 'a' } },
    ],
  })
  const verified = await run(['verify', 'a', 'off'], library)
  t.match(verified, { status: 1, out: /^a: ok\noff: 1 problem\n.*has a hole/, err: '' })
  const json = await run(['verify', '--json', 'a', 'off'], library)
  t.equal(json.status, 1)
  t.match(shaped(t, 'verify', json), { results: [{ ok: true }, { ok: false, problems: [hole] }] })
  const released = await run(['release', '--json', 'a', 'bad'], library)
  t.equal(released.status, 1)
  t.match(shaped(t, 'release', released), {
    results: [{ ok: true }, { error: { code: verdict.code } }],
  })
})

// --- what is printed --------------------------------------------------------------------------------

await t.test('JSON of the other verbs', async (t) => {
  const partitions = [{ number: 1, path: '/dev/mapper/ap1', start: 512, size: 1024, type: '83' }]
  const device = fakeDevice('a', { partitions, fallback: [hole], partitionProblems: [hole] })
  const library: Partial<Library> = {
    planFile: () =>
      Promise.resolve(
        fakePlan([
          [0, 8192, 4096, 0],
          [4096, 0, 4096, 1],
        ]),
      ),
    mapFile: () => Promise.resolve(device),
    wrapDevice: () => Promise.resolve(device),
    listMappings: () => Promise.resolve([device]),
    createImage: () => Promise.resolve(['/srv/a']),
    provisionFile: () => Promise.resolve(),
  }
  for (const words of ['plan a', 'map a', 'wrap a b', 'list', 'create a', 'provision a']) {
    const result = await run([...words.split(' '), '--json'], library)
    t.match(result, { status: 0, err: '' }, words)
    shaped(t, words.split(' ')[0] ?? '', result)
  }
  const plan = JSON.parse((await run(['plan', '-J', 'a'], library)).out) as unknown
  t.match(plan, { size: 8192, extents: [{ physical: 8192 }, { physical: 0 }], segments: [{}, {}] })
})

await t.test('list', async (t) => {
  const partitions = [{ number: 1, path: '/dev/mapper/ap1', start: 512, size: 1 << 20, type: '83' }]
  const mappings = [
    fakeDevice('a', { partitions }),
    fakeDevice('longer', { files: [], readOnly: true, size: 512, backend: 'loop' }),
  ]
  const library: Partial<Library> = { listMappings: () => Promise.resolve(mappings) }
  t.equal(
    (await run(['list'], library)).out,
    `NAME    PATH                SIZE  RO  BACKEND  SEGMENTS  FILES
a       /dev/mapper/a       1G    0   linear   2         /srv/a
a:1     /dev/mapper/ap1     1M    0   -        -         83
longer  /dev/mapper/longer  512B  1   loop     2         -
`,
  )
  t.match((await run(['list', '-nb'], library)).out, /^a {7}\/dev\/mapper\/a {7}1073741824/)
  t.strictSame(await run(['list'], { listMappings: () => Promise.resolve([]) }), {
    ...{ status: 0, out: '', err: '' },
  })
})

await t.test(
  'a loop device in place of a linear one is told, and not on standard output',
  async (t) => {
    const device = fakeDevice('a', { backend: 'loop', path: '/dev/loop0', fallback: [hole] })
    const { out, err } = await run(['map', '--backend=auto', 'a'], {
      mapFile: () => Promise.resolve(device),
    })
    t.equal(out, '/dev/loop0\n')
    t.match(err, /loop device, because:\n.*has a hole/)
    const partitioned = fakeDevice('a', { partitionProblems: [hole] })
    t.match(
      (await run(['map', '--partscan', 'a'], { mapFile: () => Promise.resolve(partitioned) })).err,
      /^dmloop: the partition table of \/dev\/mapper\/a:\n.*has a hole/,
    )
  },
)

await t.test('names cannot draw on a terminal', (t) => {
  t.equal(printable('a\nb\x1b[2Jc\x7f\x9b'), 'a\\x0ab\\x1b[2Jc\\x7f\\x9b')
  t.equal(printable('ä €'), 'ä €')
  t.strictSame([0, 1023, 1024, 1536, 2 ** 40].map(formatBytes), [
    '0 B',
    '1023 B',
    '1 KiB',
    '1.5 KiB',
    '1 TiB',
  ])
  t.strictSame([512, 2 ** 30].map(shortBytes), ['512B', '1G'])
  t.end()
})

const MIB = 1 << 20

await t.test('the strip of a disk', async (t) => {
  const disk = {
    device: '0:9999',
    name: 'x',
    size: undefined,
    extents: 2,
    first: 0,
    end: 100 * MIB,
  }
  const plan = fakePlan([
    [0, 90 * MIB, 10 * MIB, 0],
    [10 * MIB, 10 * MIB, 2 * MIB, 0],
    [12 * MIB, 15 * MIB, 20 * MIB, 0],
  ])
  t.strictSame(
    fillColumns(plan, disk, { from: 0, to: 100 * MIB }, 10),
    [0, 0.7, 1, 0.5, 0, 0, 0, 0, 0, 1],
  )
  t.strictSame(fillColumns(plan, disk, { from: 10 * MIB, to: 14 * MIB }, 4), [1, 1, 0, 0])

  const pipe = new Screen({
    stdout: new Written(),
    stderr: new Written(),
    env: { LANG: 'C.UTF-8' },
  })
  const [, strip = '', legend] = (await drawStorage(plan, pipe)).split('\n')
  t.match(strip, /^ {2}[.+#]{78}$/)
  t.match(legend, '. not of the file')
  const utf8 = { LANG: 'C.UTF-8', NO_COLOR: '1' }
  const terminal = new Screen({ stdout: new Written(true, 40), stderr: new Written(), env: utf8 })
  t.match((await drawStorage(plan, terminal)).split('\n')[1], /^ {2}[░▒█]{38}$/)

  const far = await drawStorage(fakePlan([[0, 1000 * MIB, MIB, 0]]), pipe)
  t.match(far, /1001 MiB\n.*\n {2}enlarged: 1 MiB from byte 1048576000 .*\n {2}#{78}\n/)
  t.equal(await drawStorage(fakePlan([]), pipe), '', 'nothing of nothing')
})

await t.test('files on two disks have a strip each', async (t) => {
  const files = [
    { size: 1000, device: '0:9998' },
    { size: 8192, device: '0:9999' },
  ]
  const rows = [
    [0, 4096, 4096, 0],
    [1000, 0, 8192, 0],
  ]
  const screen = new Screen({ stdout: new Written(), stderr: new Written(), env: {} })
  const drawing = await drawStorage(fakePlan(rows, files), screen)
  t.match(drawing, /0:9998.*8 KiB\n {2}\.{39}#{39}\n.*0:9999.*8 KiB\n {2}#{78}\n/)
})

await t.test('plan', async (t) => {
  const planned = (problems: Plan['problems'] = []): Partial<Library> => ({
    planFile: () =>
      Promise.resolve(
        fakePlan(
          [
            [0, 8192, 4096, 0],
            [4096, 0, 512, 1],
          ],
          undefined,
          problems,
        ),
      ),
  })
  const good = await run(['plan', 'a'], planned())
  t.equal(good.status, 0)
  for (const text of [
    '/srv/0: ',
    '2 extents   largest 4 KiB  smallest 512 B',
    '2 segments  largest 4 KiB  smallest 512 B',
    'can be mapped: a device-mapper device of 4.5 KiB',
  ]) {
    t.match(good.out, text)
  }
  t.notMatch(good.out, '\x1b', 'no colours in a pipe')
  const bad = await run(['plan', 'a'], planned([hole, shared]), { terminal: true })
  t.equal(bad.status, 1)
  t.match(
    bad.out,
    /cannot be mapped: 2 problems[^]*DMLOOP_HOLE[^]*a hole[^]*Fill it[^]*DMLOOP_SHARED/,
  )
  t.match(bad.out, '\x1b[31m')
  const plain = await run(['plan', 'a'], planned([hole]), {
    terminal: true,
    env: { NO_COLOR: '1' },
  })
  t.notMatch(plain.out, '\x1b')
  const table = await run(['plan', '--table', 'a'], planned([hole]))
  t.match(table, { status: 1, out: '0 8 linear 0:9999 16\n8 1 linear 0:9999 0\n', err: /a hole/ })
})

await t.test('a million extents', async (t) => {
  const rows = Array.from({ length: 1_000_000 }, (_, at) => [at * 4096, at * 8192, 4096, 0])
  const plan = fakePlan(rows)
  const start = performance.now()
  const { out } = await run(['plan', 'a'], { planFile: () => Promise.resolve(plan) })
  const took = performance.now() - start
  t.match(out, '1,000,000 extents')
  t.ok(took < 5000, `drawn in ${took.toFixed()} ms`)
})

await t.test('progress', (t) => {
  t.equal(
    progressLine('a', { done: 512 * MIB, total: 1024 * MIB }, 2),
    'a   50 %  512 MiB of 1 GiB  256 MiB/s',
  )
  t.equal(progressLine('a', { done: MIB, total: undefined }, 0), 'a  1 MiB')
  const pipe = new Screen({ stdout: new Written(true), stderr: new Written(), env: {} })
  t.equal(pipe.progress('a'), undefined, 'none in a pipe')
  const dumb = new Screen({
    stdout: new Written(),
    stderr: new Written(true),
    env: { TERM: 'dumb' },
  })
  t.equal(dumb.progress('a'), undefined, 'nor where a line cannot be cleared')

  const stderr = new Written(true, 20)
  const screen = new Screen({ stdout: new Written(), stderr, env: {} })
  const progress = screen.progress('a long name of a file')
  for (let done = 0; done < 1000; done++) progress?.({ done, total: 1000 })
  t.ok((stderr.text.match(/\r/g) ?? []).length <= 3, 'not more often than can be read')
  t.ok(stderr.text.startsWith('\r\x1b[Ka long name of a fi'), 'in one line')
  screen.print('result\n')
  t.ok(stderr.text.endsWith('\r\x1b[K'), 'and nothing of it is left')
  t.end()
})
