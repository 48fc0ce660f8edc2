// node create.js FILESYSTEM: createImage. What it makes can be mapped at once; whatever goes wrong, nothing is
// left, and nobody's file is lost.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { createImage, mapFile, planFile, type MapOptions, type Progress } from 'dmloop'
import { below, makeHost, oneSegment, randomFile, randomNumbers, sh, sha256 } from './lab.js'

const [filesystem = 'ext4'] = process.argv.slice(2)
const MIB = 1 << 20
const SIZE = 24 * MIB
const KILLED = fileURLToPath(new URL('killed.js', import.meta.url))
/** vfat has no guard. */
const MAP: MapOptions = filesystem === 'vfat' ? { guard: 'none' } : {}

// What the disk held before must be in no image.
sh(`tr '\\0' X </dev/zero | dd of=/dev/ram0 bs=1M status=none 2>/dev/null || true`)
const host = makeHost(filesystem, oneSegment())
const folder = `${host.path}/images`
const file = `${folder}/image`
const source = '/tmp/source'
randomFile(source, SIZE)
const SUM = await sha256(source, SIZE)
mkdirSync(folder)

/** The files in the folder, temporary ones included. */
const files = (): string[] => readdirSync(folder).sort()

function clear(): void {
  rmSync(folder, { recursive: true })
  mkdirSync(folder)
}

t.afterEach(clear)

/** The SHA-256 of what the device of an image reads; the plan has no problems. */
async function sumOnDevice(t: Test, paths: string[], size = SIZE): Promise<string> {
  const { problems } = await planFile(paths, MAP)
  t.strictSame(problems, [], 'it can be mapped')
  await using device = await mapFile(paths, MAP)
  t.equal(device.size, size)
  return await sha256(device.path, size)
}

await t.test('an empty image lives', async (t) => {
  t.strictSame(await createImage(file, { size: SIZE }), [file])
  t.equal(statSync(file).size, SIZE)
  t.equal(await sumOnDevice(t, [file]), sh(`head -c ${SIZE} /dev/zero | sha256sum`).slice(0, 64))
  const fill = async (): Promise<string> => {
    await using device = await mapFile(file, MAP)
    sh(`mkfs.ext4 -q ${device.path}; mkdir -p /tmp/inside; mount ${device.path} /tmp/inside
      head -c 5000000 /dev/urandom >/tmp/inside/file`)
    const sum = sh('sha256sum /tmp/inside/file')
    sh('umount /tmp/inside')
    return sum
  }
  const sum = await fill()
  await using device = await mapFile(file, { ...MAP, readOnly: true })
  sh(`mount -o ro ${device.path} /tmp/inside`)
  t.equal(sh('sha256sum /tmp/inside/file'), sum)
  sh('umount /tmp/inside')
  t.strictSame(files(), ['image'])
})

await t.test('one content in all formats', async (t) => {
  sh(`gzip -k1 ${source}; xz -k0 ${source}; zstd -q -1 ${source}; img2simg ${source} ${source}.simg
    gzip -k1 ${source}.simg`)
  for (const format of ['', '.gz', '.xz', '.zst', '.simg', '.simg.gz']) {
    for (const from of [source + format, createReadStream(source + format)]) {
      const seen: Progress[] = []
      const name = `${file}${format}`
      const paths = await createImage(name, {
        from,
        sha256: SUM,
        overwrite: true,
        onProgress: (progress) => seen.push(progress),
      })
      t.equal(await sumOnDevice(t, paths), SUM, `${format} ${typeof from}`)
      t.equal(seen.at(-1)?.done, SIZE)
      t.ok(seen.length <= 1000 && seen.every(({ done }, i) => done > (seen[i - 1]?.done ?? -1)))
    }
    clear()
  }
})

await t.test('what the content does not fill is zeros', async (t) => {
  writeFileSync('/tmp/odd', 'x'.repeat(1_000_001))
  const paths = await createImage(file, { from: '/tmp/odd', size: 8 * MIB })
  await using device = await mapFile(paths, MAP)
  const bytes = readFileSync(device.path)
  t.equal(bytes.length, 8 * MIB)
  t.equal(bytes.indexOf('\0'), 1_000_001)
  t.ok(bytes.subarray(1_000_001).every((byte) => byte === 0))
  const [rounded = ''] = await createImage(`${file}-rounded`, { from: '/tmp/odd' })
  t.equal(statSync(rounded).size, 1_000_448, 'a whole logical block')
})

if (filesystem !== 'vfat') {
  await t.test('only its owner can open it before it is complete', async (t) => {
    const modes: string[] = []
    async function* content(): AsyncGenerator<Buffer> {
      yield Buffer.alloc(MIB)
      modes.push(sh(`stat -c %a ${folder}/.dmloop-*`).trim())
      yield Buffer.alloc(MIB)
      await Promise.resolve()
    }
    const umask = process.umask(0o027)
    await createImage(file, { from: Readable.from(content()) })
    process.umask(umask)
    t.strictSame(modes, ['600'])
    t.equal(sh(`stat -c %a ${file}`).trim(), '640')
  })
}

await t.test('several files', async (t) => {
  const paths = await createImage(file, { from: source, maxFileSize: 7 * MIB })
  t.strictSame(
    paths,
    ['0000', '0001', '0002', '0003'].map((part) => `${file}.${part}`),
  )
  t.strictSame(
    paths.map((path) => statSync(path).size / MIB),
    [7, 7, 7, 3],
  )
  t.equal(await sumOnDevice(t, paths), SUM)
  const stream = await createImage(file, {
    from: createReadStream(source),
    maxFileSize: 10 * MIB,
    overwrite: true,
  })
  t.strictSame(files(), ['image.0000', 'image.0001', 'image.0002'], 'of a stream, replaced')
  t.equal(await sumOnDevice(t, stream), SUM)
  await createImage(file, { size: MIB, overwrite: true })
  t.strictSame(files(), ['image'], 'by one file')
  await createImage(file, { size: 2 * MIB, maxFileSize: MIB, overwrite: true })
  t.strictSame(files(), ['image.0000', 'image.0001'], 'and by several')
})

await t.test('an image that is there', async (t) => {
  writeFileSync(file, 'precious')
  await t.rejects(createImage(file, { size: MIB }), { code: 'DMLOOP_IMAGE_EXISTS', file })
  t.equal(readFileSync(file, 'utf8'), 'precious')
  await t.rejects(createImage(file, { from: '/tmp/none', overwrite: true }), { code: 'ENOENT' })
  t.equal(readFileSync(file, 'utf8'), 'precious', 'it stays when there is no new one')
  await t.rejects(createImage(folder, { size: MIB, overwrite: true }), {
    code: 'DMLOOP_NOT_REGULAR_FILE',
  })
  writeFileSync(`${file}-parts.0000`, 'precious')
  await t.rejects(createImage(`${file}-parts`, { size: MIB }), { code: 'DMLOOP_IMAGE_EXISTS' })
  if (filesystem !== 'vfat') {
    sh(`chown 1000:1001 ${file}; chmod 640 ${file}`)
    symlinkSync(file, `${folder}/link`)
    t.strictSame(await createImage(`${folder}/link`, { size: MIB, overwrite: true }), [file])
    t.equal(sh(`stat -c '%u %g %a %s' ${file}`).trim(), `1000 1001 640 ${MIB}`)
  }
})

await t.test('an image that is mapped is not replaced', async (t) => {
  await createImage(file, { from: source })
  for (const options of [MAP, { backend: 'loop' as const }]) {
    await using device = await mapFile(file, options)
    await t.rejects(createImage(file, { size: MIB, overwrite: true }), {
      code: 'DMLOOP_ALREADY_MAPPED',
    })
    t.equal(await sha256(device.path, SIZE), SUM)
  }
  // Mapped while the new one is being made.
  let device: Awaited<ReturnType<typeof mapFile>> | undefined
  async function* slow(): AsyncGenerator<Buffer> {
    yield Buffer.alloc(MIB)
    device = await mapFile(file, MAP)
    yield Buffer.alloc(MIB)
  }
  await t.rejects(createImage(file, { from: Readable.from(slow()), overwrite: true }), {
    code: 'DMLOOP_ALREADY_MAPPED',
  })
  t.equal(await sha256(device?.path ?? '', SIZE), SUM)
  await device?.unmap()
  t.strictSame(files(), ['image'])
})

await t.test('one call at a time makes an image', async (t) => {
  async function* first(): AsyncGenerator<Buffer> {
    yield Buffer.alloc(MIB, 'a')
    await t.rejects(createImage(file, { size: MIB }), {
      code: 'DMLOOP_FILE_IN_USE',
      message: new RegExp(`${process.pid}`),
    })
    yield Buffer.alloc(MIB, 'b')
  }
  await createImage(file, { from: Readable.from(first()) })
  t.equal(statSync(file).size, 2 * MIB)
  // A file that somebody else makes under the name meanwhile is not lost.
  async function* second(): AsyncGenerator<Buffer> {
    yield Buffer.alloc(MIB)
    writeFileSync(`${file}-two`, 'precious')
    yield Buffer.alloc(MIB)
    await Promise.resolve()
  }
  await t.rejects(createImage(`${file}-two`, { from: Readable.from(second()) }), {
    code: 'DMLOOP_IMAGE_EXISTS',
  })
  t.equal(readFileSync(`${file}-two`, 'utf8'), 'precious')
  t.strictSame(files(), ['image', 'image-two'])
})

await t.test('nothing is left of what fails', async (t) => {
  const fails = async (
    options: Parameters<typeof createImage>[1],
    error: Error | { code: string | RegExp; [key: string]: unknown },
    what: string,
  ): Promise<void> => {
    await t.rejects(createImage(file, options), error, what)
    t.strictSame(files(), [], `${what}: nothing is left`)
  }
  await fails({ size: 2 ** 40 }, { code: 'DMLOOP_NO_SPACE', file }, 'a full disk')
  const endless = Readable.from(
    (function* () {
      for (;;) yield Buffer.alloc(MIB, 'x')
    })(),
  )
  await fails({ from: endless }, { code: 'DMLOOP_NO_SPACE' }, 'a full disk, of a stream')
  t.ok(endless.destroyed, 'the stream is destroyed')
  await fails({ from: source, size: MIB }, { code: 'DMLOOP_BAD_IMAGE' }, 'too much')
  await fails(
    { from: createReadStream(source), size: MIB },
    { code: 'DMLOOP_BAD_IMAGE' },
    'too much of a stream',
  )
  await fails({ from: Readable.from([]) }, { code: 'DMLOOP_BAD_IMAGE' }, 'no content')
  sh(`head -c 10000000 ${source}.gz >/tmp/short.gz`)
  await fails({ from: '/tmp/short.gz' }, { code: 'DMLOOP_BAD_IMAGE' }, 'cut off')
  await fails(
    { from: source, sha256: '0'.repeat(64) },
    { code: 'DMLOOP_CHECKSUM_MISMATCH', message: new RegExp(SUM) },
    'another checksum',
  )
  const broken = new Error('broken')
  await fails(
    {
      from: Readable.from(
        (function* () {
          yield Buffer.alloc(MIB)
          throw broken
        })(),
      ),
    },
    broken,
    'a broken stream',
  )
  for (const from of [source, `${source}.gz`, undefined]) {
    const controller = new AbortController()
    const reason = new Error('enough')
    await fails(
      {
        ...(from === undefined ? {} : { from }),
        size: 200 * MIB,
        signal: controller.signal,
        onProgress: ({ done }) => {
          if (done >= SIZE / 2) controller.abort(reason)
        },
      },
      reason,
      `abort, ${from ?? 'empty'}`,
    )
  }
  if (filesystem !== 'vfat') {
    await fails({ size: 2 ** 53 - 512 }, { code: /TOO_LARGE|NO_SPACE/ }, 'a file too large')
  }
})

await t.test('no more extents than asked for', async (t) => {
  // Free space in pieces of one file each. What xfs keeps for itself would be in one piece.
  if (filesystem === 'xfs') sh(`xfs_io -x -c 'resblks 0' ${host.path}`)
  const count = 100
  sh(`cd ${folder}; for i in $(seq ${count}); do head -c 262144 /dev/zero >small-$i; done; sync
    i=0; for size in 64M 16M 4M 1M; do
      while fallocate -l $size rest-$i 2>/dev/null; do i=$((i + 1)); done; rm -f rest-$i; done
    for i in $(seq 1 2 ${count}); do rm small-$i; done; sync`)
  const before = files()
  const wanted = { size: 8 * MIB }
  if (filesystem === 'f2fs') {
    // A pinned file gets whole sections, which are in one piece, or nothing.
    const { length } = (await planFile(await createImage(file, wanted))).extents
    t.ok(length <= 4, `${length} extents`)
  } else {
    await createImage(file, wanted)
    const { length } = (await planFile(file, MAP)).extents
    t.ok(length > 1, `${length} extents`)
    sh(`rm ${file}`)
    await t.rejects(createImage(file, { ...wanted, maxExtents: 1 }), {
      code: 'DMLOOP_TOO_MANY_SEGMENTS',
      message: /in \d+ extents, and maxExtents allows 1\./,
    })
    t.strictSame(files(), before)
    await createImage(file, { ...wanted, maxExtents: length * 2 })
  }
  sh(`rm ${file}`)
  t.strictSame(files(), before)
})

await t.test('killed at random moments', async (t) => {
  const random = randomNumbers(11)
  const argv = [KILLED, 'create', file, source, `${4 * MIB}`]
  const started = performance.now()
  const whole = spawn(process.execPath, argv, { stdio: 'inherit' })
  await once(whole, 'exit')
  const takes = performance.now() - started
  let incomplete = 0
  for (let round = 0; round < 10; round++) {
    clear()
    const child = spawn(process.execPath, argv, { stdio: 'ignore' })
    setTimeout(() => child.kill('SIGKILL'), below(random, takes))
    await once(child, 'exit')
    if (existsSync(`${file}.0000`)) {
      t.equal(sh(`cat ${file}.* | sha256sum`).slice(0, 64), SUM, 'whole')
    } else incomplete++
    const paths = await createImage(file, { from: source, maxFileSize: 4 * MIB, overwrite: true })
    t.strictSame(
      files(),
      ['0', '1', '2', '3', '4', '5'].map((part) => `image.000${part}`),
    )
    t.equal(sh(`cat ${paths.join(' ')} | sha256sum`).slice(0, 64), SUM)
  }
  t.ok(incomplete > 0, `${incomplete} of 10 were killed before the end`)
})

host.remove()
