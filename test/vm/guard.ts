// A mapped file holds still: what anyone else tries with it fails, and it comes back as it was.
import { spawn } from 'node:child_process'
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs'
import t from 'tap'
import { mapFile, openMapping, releaseFile, type DmloopError } from 'dmloop'
import { native } from '#lib/native.js'
import {
  below,
  deviceNames,
  fileState,
  fragmentedFile,
  leftFiles,
  makeHost,
  oneSegment,
  randomFile,
  randomNumbers,
  sh,
  type Host,
} from './lab.js'

const EVERYTHING_OK = { ok: true, problems: [] }
const hosts: [string, Host][] = [
  ['ext4', makeHost('ext4', oneSegment(0))],
  ['xfs', makeHost('xfs', oneSegment(1), { mkfs: '-m reflink=1' })],
]

/** What another process may try, as root. */
const ATTEMPTS: Record<string, (file: string) => string> = {
  write: (file) => `echo x >>${file}`,
  overwrite: (file) => `dd if=/dev/zero of=${file} bs=4K count=1 conv=notrunc status=none`,
  truncate: (file) => `truncate -s 4K ${file}`,
  'truncate on opening': (file) => `: >${file}`,
  fallocate: (file) => `fallocate -l 8M ${file}`,
  punch: (file) => `fallocate -p -o 0 -l 64K ${file}`,
  collapse: (file) => `fallocate -c -o 0 -l 64K ${file}`,
  unlink: (file) => `rm -f ${file}`,
  rename: (file) => `mv ${file} ${file}.moved`,
  'rename over it': (file) => `echo x >${file}.other; mv -f ${file}.other ${file}`,
  link: (file) => `ln ${file} ${file}.link`,
  'mmap for writing': (file) => `xfs_io -c 'mmap -rw 0 4k' -c 'mwrite 0 4k' ${file}`,
}

for (const [filesystem, { path }] of hosts) {
  const file = `${path}/image`

  await t.test(`${filesystem}: nobody can write to, move or delete a mapped file`, async (t) => {
    fragmentedFile(file, 1 << 20, 20, 1)
    const before = fileState(file)
    const device = await mapFile(file)
    t.match(sh(`lsattr ${file}`), /^-+i/)
    const held = fileState(file)
    for (const [what, command] of Object.entries(ATTEMPTS)) {
      t.throws(() => sh(command(file)), what)
      t.equal(fileState(file), held, `${what}: the file is as it was`)
    }
    t.strictSame(await device.verify({ content: 'full' }), EVERYTHING_OK)
    // Defragmenters are free to refuse or to do nothing, as long as the map stays true.
    sh(filesystem === 'ext4' ? `e4defrag ${file} || true` : `xfs_fsr -v ${file} || true`)
    t.strictSame(await device.verify({ content: 'full' }), EVERYTHING_OK, 'defragmented')
    await device.unmap()
    t.equal(fileState(file), before, 'bytes, flags, owner, mode and mtime are those of before')
    t.equal(sh(`getfattr -m - ${file}`), '', 'no mark is left')
  })

  await t.test(`${filesystem}: a writer from before is found`, async (t) => {
    const before = fileState(file)
    const writer = openSync(file, 'r+')
    const error = (await mapFile(file).catch((error: unknown) => error)) as DmloopError
    t.equal(error.code, 'DMLOOP_FILE_IN_USE')
    t.match(error.message, new RegExp(`process ${process.pid} \\(`), 'with its pid')
    closeSync(writer)
    t.equal(fileState(file), before)

    // A shared mapping writes without any descriptor.
    const mapper = spawn('xfs_io', [file], { stdio: ['pipe', 'ignore', 'ignore'] })
    mapper.stdin.write(['mmap -rw 0 4k', 'close', ''].join('\n'))
    const state = (): string => {
      const proc = `/proc/${mapper.pid ?? 0}`
      const mapped = readFileSync(`${proc}/maps`, 'utf8').includes(file)
      const open = sh(`ls -l ${proc}/fd`).includes(file)
      return `${mapped ? 'mapped' : ''} ${open ? 'open' : ''}`
    }
    for (let wait = 0; wait < 100 && state() !== 'mapped '; wait++) sh('sleep 0.05')
    t.equal(state(), 'mapped ', 'mapped, and open no more')
    await t.rejects(mapFile(file), { code: 'DMLOOP_FILE_IN_USE', message: /\(xfs_io\)/ })
    mapper.kill('SIGKILL')
    await new Promise((resolve) => mapper.once('exit', resolve))
    const device = await mapFile(file)
    await device.unmap()
    t.equal(fileState(file), before)
  })

  await t.test(`${filesystem}: a flag of somebody else's stays`, async (t) => {
    sh(`chattr +i ${file}`)
    const before = fileState(file)
    const device = await mapFile(file)
    await device.unmap()
    t.equal(fileState(file), before)
    await releaseFile(file)
    t.equal(fileState(file), before, 'releaseFile leaves it, too')
    sh(`chattr -i ${file}`)
  })

  await t.test(`${filesystem}: what a crash or a reboot left is undone`, async (t) => {
    const before = fileState(file)
    const device = await mapFile(file)
    await t.rejects(releaseFile(file), { code: 'DMLOOP_ALREADY_MAPPED' }, 'not while it is mapped')
    // A reboot takes the device and the records, and leaves the file.
    sh(`dmsetup remove --retry ${device.name}; rm -rf /run/dmloop`)
    t.match(sh(`lsattr ${file}`), /^-+i/)
    await releaseFile(file)
    t.equal(fileState(file), before, 'releaseFile')
    await releaseFile(file)
    t.equal(fileState(file), before, 'a second time does nothing')

    const again = await mapFile(file)
    sh(`dmsetup remove --retry ${again.name}; rm -rf /run/dmloop`)
    const taken = await mapFile(file)
    t.strictSame(await taken.verify(), EVERYTHING_OK, 'mapFile takes its own guard over')
    await taken.unmap()
    t.equal(fileState(file), before)
  })

  await t.test(`${filesystem}: verify() sees that the guard was taken away`, async (t) => {
    const device = await mapFile(file)
    sh(`chattr -i ${file}`)
    t.match(await device.verify(), { ok: false, problems: [{ code: 'DMLOOP_UNGUARDABLE', file }] })
    await device.unmap()
  })

  await t.test(`${filesystem}: never a stale byte`, async (t) => {
    const ROUNDS = 250
    const random = randomNumbers(5)
    const image = `${path}/rounds`
    fragmentedFile(image, 256 << 10, 12, 3)
    const content = readFileSync(image)
    let stale = 0
    const scribble = (target: string): void => {
      const out = openSync(target, 'r+')
      for (let i = 0; i < 8; i++) {
        const at = below(random, content.length / 512) * 512
        const data = Buffer.alloc(512, below(random, 256))
        writeSync(out, data, 0, 512, at)
        data.copy(content, at)
      }
      fsyncSync(out)
      closeSync(out)
    }
    for (let round = 0; round < ROUNDS; round++) {
      const device = await mapFile(image, { verify: round % 2 ? 'none' : 'sample' })
      if (!readFileSync(device.path).equals(content)) stale++
      scribble(device.path)
      if (!readFileSync(device.path).equals(content)) stale++
      // What is read through the file meanwhile may be old, and is in the cache then.
      readFileSync(image)
      await device.unmap()
      if (!readFileSync(image).equals(content)) stale++
      scribble(image)
    }
    t.equal(stale, 0, `${ROUNDS} rounds through device and file in turn`)
  })

  await t.test(`${filesystem}: nothing is left`, (t) => {
    t.strictSame(deviceNames(), hosts.map(([, host]) => host.name).sort())
    t.strictSame(leftFiles(), [])
    t.end()
  })
}

await t.test('xfs: a clone is found by verify()', async (t) => {
  const [, { path }] = hosts[1] as [string, Host]
  const file = `${path}/cloned`
  randomFile(file, 1 << 20)
  const device = await mapFile(file)
  // An immutable file can be cloned from: then a write through the device changes the clone as well.
  sh(`xfs_io -f -c 'reflink ${file} 64k 0 128k' ${path}/clone; sync`)
  t.match(await device.verify(), {
    ok: false,
    problems: [{ code: 'DMLOOP_SHARED_EXTENT', file, offset: 65536, length: 131072 }],
  })
  await device.unmap()
})

await t.test(
  'blocks that are mapped are known by whatever number their filesystem has',
  async (t) => {
    const table = '0 131072 linear 1:1 600000\n'
    const first = makeHost('ext4', table, { name: 'volume' })
    const file = `${first.path}/image`
    fragmentedFile(file, 4 << 20, 50, 4)
    const device = await mapFile(file)
    const blocks = sh(`dmsetup table ${device.name}`)
    // Our device holds the disk and not the volume: it can be taken away and come back as another.
    first.remove()
    sh('dmsetup create other --table "0 8 zero"; dmsetup create volume', table)
    sh(`mount /dev/mapper/volume ${first.path}`)
    await t.rejects(mapFile(file, { name: 'twin' }), {
      code: 'DMLOOP_ALREADY_MAPPED',
      message: /image/,
    })
    t.equal(sh(`dmsetup table ${device.name}`), blocks)
    t.match(sh(`lsattr ${file}`), /^-+i/, 'the guard of the first mapping stays')
    await device.unmap()
    const again = await mapFile(file, { name: 'twin' })
    t.equal(sh('dmsetup table twin'), blocks, 'the same blocks, once nobody has them')
    await again.unmap()
    t.notMatch(sh(`lsattr ${file}`), /^-+i/)
    first.remove()
    sh('dmsetup remove --retry other')
  },
)

await t.test('a filesystem that lies is caught by the content', async (t) => {
  const table = '0 131072 linear 1:0 600000\n'
  const liar = makeHost('ext4', table, { name: 'liar' })
  const file = `${liar.path}/image`
  randomFile(file, 8 << 20)
  sh('sync')
  const disk = (): string =>
    sh(
      'dd if=/dev/ram0 bs=1M skip=$((600000 * 512)) count=65M iflag=skip_bytes,count_bytes status=none | sha256sum',
    )
  // The live table still leads to the data; the one that is read and believed is shifted by a block.
  const before = disk()
  const honest = native.dmTable
  native.dmTable = async (target, inactive) => {
    const answer = await honest(target, inactive)
    if ('value' in answer && answer.value.device.name === 'liar') {
      answer.value.rows[3] = (answer.value.rows[3] as number) + 8
    }
    return answer
  }
  try {
    for (const verify of ['sample', 'full'] as const) {
      await t.rejects(mapFile(file, { verify }), {
        code: 'DMLOOP_CONTENT_MISMATCH',
        file,
        offset: 0,
      })
    }
    const mapped = await mapFile(file, { verify: 'none' })
    t.match(await mapped.verify(), { ok: true }, 'the extents alone cannot tell')
    t.match(await mapped.verify({ content: 'full' }), {
      ok: false,
      problems: [{ code: 'DMLOOP_CONTENT_MISMATCH' }],
    })
    await mapped.unmap()
  } finally {
    native.dmTable = honest
  }
  t.equal(disk(), before, 'nothing was written')
  const seen: number[] = []
  const device = await mapFile(file, {
    verify: 'full',
    onProgress: ({ done, total }) => seen.push(done / total),
  })
  t.equal(seen.at(-1), 1, 'progress ends at all of it')
  await (await openMapping(device.name)).unmap()
  liar.remove()
})

for (const [, host] of hosts) host.remove()
