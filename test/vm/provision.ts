// node provision.js FILESYSTEM [FILES]: provisionFile. Whatever a file is made of, it reads as before, and can be mapped
// afterwards; also when it is stopped on the way. Nobody else can have it open meanwhile.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import t, { type Test } from 'tap'
import { mapFile, planFile, provisionFile, type DmloopCode } from 'dmloop'
import {
  below,
  fileState,
  leftFiles,
  makeHost,
  oneSegment,
  randomFile,
  randomNumbers,
  scaled,
  sh,
} from './lab.js'

const [filesystem = 'ext4', files = '12'] = process.argv.slice(2)
const KIB = 1024
const MIB = 1 << 20
const BLOCK = 4 * KIB
const MKFS: Record<string, string> = {
  // Inodes with room for data.
  ext4: '-q -b 4096 -O inline_data -I 1024',
  f2fs: '-q',
}

const host = makeHost(filesystem, oneSegment(), { mkfs: MKFS[filesystem] ?? '' })
const folder = `${host.path}/files`
const file = `${folder}/file`
const random = randomNumbers(12)

t.beforeEach(() => {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder)
})

/** Everything of a file but when it was changed, and whether its data is in the inode or in extents. */
function state(): string {
  const { flags, ...rest } = JSON.parse(fileState(file)) as { flags: string }
  return JSON.stringify({ ...rest, mtimeMs: 0, flags: flags.replace(/[Ne]/g, '-') })
}

const codes = async (): Promise<DmloopCode[]> =>
  (await planFile(file)).problems.map(({ code }) => code)

/** That the file is as it was, as the cache has it and as the disk has it, and can be mapped. */
async function assertProvisioned(t: Test, before: string, what: string): Promise<void> {
  t.equal(state(), before, `${what}: as before`)
  sh('echo 3 >/proc/sys/vm/drop_caches')
  t.equal(state(), before, `${what}: on the disk`)
  t.strictSame(await codes(), [], `${what}: mappable`)
  const size = Math.floor(statSync(file).size / 512) * 512
  await using device = await mapFile(file, { verify: 'full' })
  t.ok(
    readFileSync(device.path).equals(readFileSync(file).subarray(0, size)),
    `${what}: the device`,
  )
}

type Step = (offset: number, length: number) => string

/** What a range of a file can be. */
const STEPS: Record<string, Step> = {
  data: (offset, length) =>
    `head -c ${length} /dev/urandom | dd of=${file} bs=64K seek=${offset} oflag=seek_bytes conv=notrunc status=none`,
  hole: (offset, length) => `fallocate -p -o ${offset} -l ${length} ${file} || true`,
  unwritten: (offset, length) => `fallocate -n -o ${offset} -l ${length} ${file} || true`,
  ...(filesystem === 'xfs'
    ? {
        shared: (offset: number, length: number) =>
          `xfs_io -c 'reflink ${folder}/other ${below(random, 8) * 64 * KIB} ${offset} ${length}' ${file} >/dev/null`,
      }
    : {}),
}

/** A file of random ranges, at whole blocks of the filesystem and of random ends. */
function makeFile(): string[] {
  const kinds = Object.keys(STEPS)
  const size = 2 * MIB + below(random, MIB)
  const made = new Set<string>()
  sh(`rm -f ${folder}/*; truncate -s ${size} ${file}`)
  if (filesystem === 'xfs') randomFile(`${folder}/other`, MIB)
  for (let count = 3 + below(random, 12); count > 0; count--) {
    const kind = kinds[below(random, kinds.length)] ?? 'data'
    const offset = below(random, 480) * 4 * KIB
    const length = (1 + below(random, 30)) * 4 * KIB
    sh(STEPS[kind]?.(offset, Math.min(length, 2 * MIB - offset)) ?? '')
    made.add(kind)
  }
  sh(`sync ${file}`)
  return [...made]
}

await t.test('files of all kinds', async (t) => {
  const seen = new Set<string>()
  const count = scaled(Number(files), 6)
  for (let round = 0; round < count; round++) {
    const kinds = makeFile()
    for (const code of await codes()) seen.add(code)
    const before = state()
    const other = filesystem === 'xfs' ? readFileSync(`${folder}/other`) : undefined
    if (round % 2 === 0) await abortSoon(t, before)
    const progress: number[] = []
    await provisionFile(file, {
      onProgress: ({ done, total = 0 }) => progress.push(done / total),
    })
    t.ok(progress.length === 0 || progress.at(-1) === 1, 'progress ends at all of it')
    await assertProvisioned(t, before, `${round}, ${kinds.join(' ')}`)
    if (other) t.ok(readFileSync(`${folder}/other`).equals(other), 'the other file is as before')
  }
  const expected = ['DMLOOP_HOLE', ...(filesystem === 'xfs' ? ['DMLOOP_SHARED_EXTENT'] : [])]
  for (const code of [...expected, 'DMLOOP_UNWRITTEN_EXTENT']) t.ok(seen.has(code), code)
})

/** Stops a call in the middle of it: what it reads is as before. */
async function abortSoon(t: Test, before: string): Promise<void> {
  const controller = new AbortController()
  const reason = new Error('enough')
  const stopped = provisionFile(file, {
    signal: controller.signal,
    onProgress: () => controller.abort(reason),
  })
  // Where the last step is under way, it ends.
  await stopped.catch((error: unknown) => t.equal(error, reason))
  t.equal(state(), before, 'as before the abort')
  t.strictSame(leftFiles(), [], 'nothing is left')
}

await t.test('data in the inode', async (t) => {
  if (filesystem === 'xfs') return
  sh(`head -c 640 /dev/urandom >${file}; sync ${file}`)
  t.strictSame(await codes(), ['DMLOOP_INLINE_DATA'])
  const before = state()
  await provisionFile(file)
  await assertProvisioned(t, before, 'inline')
})

if (filesystem === 'ext4') {
  await t.test('data that ext4 has just moved out of the inode', async (t) => {
    // Its block is in the journal, as if it were metadata.
    sh(`head -c 640 /dev/urandom >${file}; sync ${file}; fallocate -n -l 640 ${file}
      head -c 1M /dev/urandom | dd of=${file} bs=4K seek=1 status=none`)
    await using device = await mapFile(file)
    t.ok(readFileSync(device.path).equals(readFileSync(file)), 'the device has it')
    const written = Buffer.alloc(BLOCK, 'B')
    const out = openSync(device.path, 'r+')
    writeSync(out, written, 0, BLOCK, 0)
    fsyncSync(out)
    closeSync(out)
    sh(`fsfreeze -f ${host.path}; fsfreeze -u ${host.path}`)
    const read = execFileSync('dd', [
      ...[`if=${device.path}`, 'bs=4096', 'count=1', 'iflag=direct', 'status=none'],
    ])
    t.ok(read.equals(written), 'the journal does not write over what was written since')
  })
}

await t.test('a file that needs nothing', async (t) => {
  randomFile(file, MIB)
  const before = fileState(file)
  await provisionFile(file)
  t.equal(fileState(file), before)
})

await t.test('a file that somebody has open', async (t) => {
  sh(`truncate -s 1M ${file}`)
  const before = fileState(file)
  for (const flags of ['<', '>>']) {
    const reader = spawn('sh', ['-c', `exec 3${flags}${file}; echo open; read line`], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    await once(reader.stdout, 'data')
    await t.rejects(provisionFile(file), {
      code: 'DMLOOP_FILE_IN_USE',
      message: new RegExp(`is open by process ${reader.pid} `),
    })
    t.equal(fileState(file), before)
    reader.stdin.end('\n')
    await once(reader, 'exit')
  }
  const own = openSync(file, 'r')
  await t.rejects(provisionFile(file), { code: 'DMLOOP_FILE_IN_USE' })
  closeSync(own)
  t.equal(fileState(file), before)
})

await t.test('a file that somebody opens meanwhile', async (t) => {
  sh(`truncate -s 130M ${file}`)
  const before = state()
  let opened: Promise<void> | undefined
  const provisioning = provisionFile(file, {
    onProgress: () => {
      opened ??= open(file).then((handle) => handle.close())
    },
  })
  await t.rejects(provisioning, { code: 'DMLOOP_FILE_IN_USE', message: /being opened/ })
  await opened
  t.equal(state(), before)
  await provisionFile(file)
  await assertProvisioned(t, before, 'the second call')
})

await t.test('a file that is mapped, or cannot be', async (t) => {
  randomFile(file, MIB)
  for (const backend of ['linear', 'loop'] as const) {
    await using _ = await mapFile(file, { backend })
    await t.rejects(provisionFile(file), { code: 'DMLOOP_ALREADY_MAPPED' })
  }
  sh(`truncate -s 100 ${file}`)
  await t.rejects(provisionFile(file), { code: 'DMLOOP_EMPTY_FILE' })
  await t.rejects(provisionFile(folder), { code: 'DMLOOP_NOT_REGULAR_FILE' })
  await t.rejects(provisionFile(`${file}-none`), { code: 'ENOENT', path: `${file}-none` })
  sh(`truncate -s 1M ${file}; chattr +i ${file}`)
  await t.rejects(provisionFile(file), { code: 'EPERM', path: file })
  sh(`chattr -i ${file}`)
})

const free = (): number => {
  sh(`sync; sync -f ${folder}`)
  return Number(sh(`stat -f -c %f ${folder}`)) * BLOCK
}

await t.test('no space, as is known before', async (t) => {
  sh(`head -c 5000 /dev/urandom >${file}; truncate -s 10G ${file}`)
  const before = sh(`stat -c '%s %b' ${file}; head -c 8192 ${file} | sha256sum`)
  const had = free()
  await t.rejects(provisionFile(file), { code: 'DMLOOP_NO_SPACE', message: /needs \d+ bytes more/ })
  t.equal(sh(`stat -c '%s %b' ${file}; head -c 8192 ${file} | sha256sum`), before)
  t.equal(free(), had, 'nothing is allocated')
})

// What the extents themselves need on the disk is known only when there is no space for it.
if (filesystem === 'ext4') {
  await t.test('no space, as turns out on the way', async (t) => {
    const holes = 4000
    const out = openSync(file, 'w')
    for (let index = 0; index < holes; index++) {
      writeSync(out, Buffer.alloc(BLOCK, index), 0, BLOCK, index * 2 * BLOCK)
    }
    ftruncateSync(out, holes * 2 * BLOCK)
    closeSync(out)
    // Exactly as much is left as the holes are long.
    let rest = free() - (holes + 64) * BLOCK
    for (;;) {
      sh(`fallocate -l ${rest} ${folder}/rest; truncate -s ${rest} ${folder}/rest`)
      const more = free() - holes * BLOCK
      if (more === 0) break
      rest += more
    }
    const before = state()
    const had = free()
    t.equal(had, holes * BLOCK)
    await t.rejects(provisionFile(file), {
      code: 'DMLOOP_NO_SPACE',
      cause: { code: 'ENOSPC', syscall: 'fallocate' },
    })
    t.equal(state(), before)
    // What the extents need stays allocated to the file's extent tree, at most.
    t.ok(free() >= had - 64 * BLOCK, `${had - free()} bytes are still allocated`)
    sh(`rm ${folder}/rest`)
    await provisionFile(file)
    await assertProvisioned(t, before, 'with more space')
  })
}

host.remove()
