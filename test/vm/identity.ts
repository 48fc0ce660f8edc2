// node identity.js FILESYSTEM: a mapping is known by the file itself. Whatever becomes of the paths that lead
// to it, of /run and of the namespaces, unmap gives the file back as it was, with what was written to the
// device, and touches no other file.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import {
  listMappings,
  mapFile,
  openMapping,
  planFile,
  releaseFile,
  type MappedDevice,
  type MapOptions,
} from 'dmloop'
import { native } from '#lib/kernel/native.js'
import { NO_WAIT } from '#lib/kernel/wait.js'
import { BackingFiles } from '#lib/plan/backing-file.js'
import { deviceNames, fileState, leftFiles, makeHost, randomFile, sh } from './lab.js'

const [filesystem = 'ext4'] = process.argv.slice(2)
const PEER = fileURLToPath(new URL('peer.js', import.meta.url))
const HOLD_PAGES = fileURLToPath(new URL('../../../build/Release/hold-pages', import.meta.url))
const OK = { ok: true, problems: [] }
const BLOCK = 4096
const SIZE = 1 << 20
const TABLE = `0 ${Number(sh('blockdev --getsz /dev/ram0'))} linear 1:0 0\n`
const host = makeHost(filesystem, TABLE, { name: 'host' })
const disk = '/dev/mapper/host'
/** Without a guard, a file on f2fs must be root's, and pinned, already. */
const GUARDS = filesystem === 'f2fs' ? (['immutable'] as const) : (['immutable', 'none'] as const)

/** A directory of a user's, with a file that everybody can read, full of As. */
function userFile(name: string): { folder: string; file: string; before: string } {
  const folder = `${host.path}/${name}`
  const file = `${folder}/disk.img`
  sh(`mkdir ${folder}; head -c ${SIZE} /dev/zero | tr '\\0' A >${file}; sync ${file}
    chmod 644 ${file}; chown -R 1000 ${folder}`)
  return { folder, file, before: attributes(file) }
}

/** Everything of a file but its content. */
const attributes = (file: string): string =>
  sh(
    `stat -c '%u %g %a %s %h' ${file}; lsattr ${file} | cut -d' ' -f1; getfattr -d -m - ${file} | grep -v '^#' || true`,
  )

/** Has the file cached, and writes a block of Bs through the device. */
function write(device: MappedDevice, file: string): void {
  sh(`cat ${file} >/dev/null`)
  const out = openSync(device.path, 'r+')
  writeSync(out, Buffer.alloc(BLOCK, 'B'), 0, BLOCK, 0)
  fsyncSync(out)
  closeSync(out)
}

const AS_WRITTEN = Buffer.concat([Buffer.alloc(BLOCK, 'B'), Buffer.alloc(SIZE - BLOCK, 'A')])
const read = (file: string, flags = ''): Buffer =>
  execFileSync('sh', ['-c', `dd if=${file} bs=1M status=none ${flags}`], { maxBuffer: 1 << 28 })

/** That a file is its owner's again: attributes, bytes, and bytes on the disk after a write of one. */
function givenBack(t: Test, file: string, before: string): void {
  t.equal(attributes(file), before, 'owner, mode, flags and extended attributes are as they were')
  t.ok(read(file).equals(AS_WRITTEN), 'it reads what was written to the device')
  const out = openSync(file, 'r+')
  writeSync(out, 'x', 100)
  fsyncSync(out)
  closeSync(out)
  const expected = Buffer.from(AS_WRITTEN)
  expected.write('x', 100)
  t.ok(read(file, 'iflag=direct').equals(expected), 'and one byte later the disk has all of it')
}

const nothingLeft = (t: Test): void => {
  t.strictSame(deviceNames(), ['host'], 'no device is left')
  t.strictSame(leftFiles(), [], 'no record or node is left')
}

/** Maps a user's file, writes to the device, and lets something happen before it is unmapped. */
async function story(
  t: Test,
  name: string,
  meanwhile: (device: MappedDevice, file: string) => string | Promise<string>,
  options: MapOptions = {},
  finish: (device: MappedDevice) => Promise<void> = (device) => device.unmap(),
): Promise<void> {
  const { file, before } = userFile(name)
  const device = await mapFile(file, { name, ...options })
  write(device, file)
  const now = await meanwhile(device, file)
  await finish(device)
  givenBack(t, now, before)
  nothingLeft(t)
  // The disk is small.
  sh(`rm -r ${now.replace(/\/disk.img$/, '')}`)
}

const rename = (_: unknown, file: string): string => {
  const folder = file.replace(/\/disk.img$/, '')
  sh(`chmod 777 ${host.path}; setpriv --reuid 1000 --clear-groups mv ${folder} ${folder}-moved`)
  return `${folder}-moved/disk.img`
}

await t.test('a directory above is renamed by its owner', async (t) => {
  await story(t, 'renamed', rename)
  await story(t, 'verified', async (device, file) => {
    const moved = rename(device, file)
    t.strictSame(await device.verify({ content: 'full' }), OK, 'verify finds the file')
    return moved
  })
  await story(t, 'found', rename, {}, async () => {
    await (await openMapping('found')).unmap()
  })
  await story(t, 'listed', rename, {}, async () => {
    for (const device of await listMappings()) await device.unmap()
  })
})

await t.test('another file takes the path', async (t) => {
  const other = { file: '', before: '' }
  await story(t, 'taken', (device, file) => {
    const moved = rename(device, file)
    Object.assign(other, userFile('taken'))
    sh(`chattr +i ${other.file}`)
    other.before = fileState(other.file)
    return moved
  })
  t.equal(fileState(other.file), other.before, 'the other file is as it was, its flag included')
  sh(`chattr -i ${other.file}`)
})

await t.test('a bind mount that led to it goes', async (t) => {
  const { file, folder, before } = userFile('bound')
  sh(`mkdir -p /tmp/bind; mount --bind ${folder} /tmp/bind`)
  const device = await mapFile('/tmp/bind/disk.img')
  write(device, file)
  sh('umount /tmp/bind')
  t.strictSame(await device.verify(), OK)
  await device.unmap()
  givenBack(t, file, before)
  nothingLeft(t)
})

await t.test('what leads to it is read-only', async (t) => {
  const isGuarded = (file: string): boolean => /^-+i/.test(sh(`lsattr ${file}`))
  const mount = {
    code: 'DMLOOP_UNGUARDABLE',
    message: /read-only mount/,
    remedy: /where it is writable/,
  }
  const all = { code: 'DMLOOP_READ_ONLY', message: /read-only now/, remedy: /remount,rw/ }
  const cover = `mount --bind ${host.path} ${host.path}; mount -o remount,bind,ro ${host.path}`
  const refused = async (
    device: MappedDevice,
    file: string,
    error: typeof mount,
  ): Promise<void> => {
    await t.rejects(device.unmap(), error)
    await t.rejects(releaseFile(file), error)
    await t.rejects(mapFile(file, { readOnly: true }), error)
    t.ok(isGuarded(file), 'the guard stays')
    t.strictSame(deviceNames(), ['host'])
  }
  await story(t, 'covered', async (device, file) => {
    sh(cover)
    await refused(device, file, mount)
    sh(`umount ${host.path}`)
    return file
  })
  await story(t, 'read-only', async (device, file) => {
    sh(`mount -o remount,ro ${host.path}`)
    await refused(device, file, all)
    sh(`mount -o remount,rw ${host.path}`)
    return file
  })
  await story(t, 'elsewhere', async (device, file) => {
    sh(`mkdir -p /tmp/elsewhere; mount --bind ${host.path} /tmp/elsewhere; ${cover}`)
    await device.unmap()
    t.notOk(isGuarded(file), 'another mount is writable')
    sh(`umount ${host.path}; umount /tmp/elsewhere`)
    return file
  })
})

await t.test('a path that is not UTF-8', async (t) => {
  const folder = Buffer.concat([Buffer.from(`${host.path}/d`), Buffer.from([0xff])])
  mkdirSync(folder)
  symlinkSync(folder, `${host.path}/link`)
  const { file, before } = userFile('link/odd')
  const device = await mapFile(file)
  write(device, file)
  t.strictSame(await device.verify({ content: 'full' }), OK)
  await device.unmap()
  givenBack(t, file, before)
  nothingLeft(t)
})

/** Runs dmloop in a mount namespace of its own, after some shell commands there. */
const elsewhere = (commands: string, ...args: string[]): string =>
  sh(`unshare -m sh -ec '${commands}
    exec "${process.execPath}" "${PEER}" ${args.join(' ')}'`).trim()

await t.test('a caller in another mount namespace', async (t) => {
  const OWN_RUN = 'mount -t tmpfs none /run'
  const ways: Record<string, string> = {
    'where the filesystem is not mounted': `umount ${host.path}`,
    'where something covers it': `mount -t tmpfs none ${host.path}`,
    'with a /run of its own': OWN_RUN,
    'with both': `umount ${host.path}; ${OWN_RUN}`,
  }
  for (const [index, [way, commands]] of Object.entries(ways).entries()) {
    const name = `namespace-${index}`
    await story(
      t,
      name,
      (_, file) => file,
      {},
      async (device) => {
        t.equal(elsewhere(commands, 'unmap', name), 'unmapped', way)
        await device.unmap()
        await listMappings()
      },
    )
  }
  // And mapped there, by way of a mount that nobody else has.
  const { file, before } = userFile('theirs')
  const inside = `mkdir -p /tmp/inside; mount ${disk} /tmp/inside; ${OWN_RUN}`
  t.match(elsewhere(inside, 'map', '/tmp/inside/theirs/disk.img', 'theirs'), /^mapped/)
  const found = await openMapping(file)
  t.equal(found.name, 'theirs', 'found by its file')
  await t.rejects(mapFile(file), { code: 'DMLOOP_ALREADY_MAPPED' })
  write(found, file)
  t.strictSame(await found.verify({ content: 'full' }), OK)
  await found.unmap()
  givenBack(t, file, before)
  nothingLeft(t)
})

await t.test('/run/dmloop is emptied', async (t) => {
  const empty = (_: unknown, file: string): string => {
    sh('rm -rf /run/dmloop/*')
    return file
  }
  await story(t, 'emptied', empty)
  await story(t, 'forgotten', empty, {}, async () => {
    const found = await openMapping('forgotten')
    t.strictSame(found.files, [`${host.path}/forgotten/disk.img`])
    t.strictSame(await found.verify({ content: 'full' }), OK)
    await found.unmap()
  })
  await story(t, 'by-file', empty, { offset: 0, length: 512 * 1024 }, async (device) => {
    const found = await openMapping(device.files[0] ?? '')
    t.strictSame(await found.verify({ content: 'full' }), OK)
    await found.unmap()
  })
  await story(
    t,
    'without-guard',
    empty,
    { guard: filesystem === 'f2fs' ? 'immutable' : 'none' },
    async () => {
      await (await openMapping('without-guard')).unmap()
    },
  )
  await story(t, 'as-loop', empty, { backend: 'loop' }, async (device) => {
    await (await openMapping(device.path)).unmap()
  })

  const pair = [userFile('first'), userFile('second'), userFile('third')]
  const files = pair.map(({ file }) => file)
  const device = await mapFile(files, { name: 'array', offset: BLOCK })
  sh('rm -rf /run/dmloop/*')
  for (const file of files) {
    t.equal((await openMapping(file)).name, 'array', `found by ${file}`)
    await t.rejects(mapFile(file, { name: 'twin' }), { code: 'DMLOOP_ALREADY_MAPPED' })
  }
  const found = await openMapping('array')
  t.strictSame(found.files, files)
  t.strictSame(await found.verify({ content: 'full' }), OK)
  await found.unmap()
  await device.unmap()
  for (const { file, before } of pair) t.equal(attributes(file), before)
  nothingLeft(t)
})

await t.test('records of nonsense', async (t) => {
  const { file, before } = userFile('nonsense')
  const RECORD = {
    ...{ id: 'x', uuid: 'DMLOOP-254-0-i1', node: { name: 'n', major: 254, minor: 9 }, files: [] },
    ...{ identities: ['254-0-i1'], offset: 0, length: 0, readOnly: false, holes: 'reject' },
    ...{ guard: 'none', marked: [], backend: 'loop', loops: [], fallback: [] },
  }
  const WRONG = [
    ...[
      { loops: [{ name: RECORD.uuid }] },
      { loops: [null] },
      { loops: [{ number: -1, name: '' }] },
    ],
    ...[{ loops: [{ number: 1.5, name: RECORD.uuid }] }, { node: { name: 'n' } }, { node: null }],
    ...[
      { fallback: [null] },
      { offset: 0.5 },
      { length: -1 },
      { backend: 'x' },
      { filesystems: {} },
    ],
  ]
  const TEXTS = [
    ...['not json\n', '{}\n', 'null\n', '{"id":1}\n', '[]\n', '{"id":"x', ''],
    ...WRONG.map((part) => `${JSON.stringify({ ...RECORD, ...part })}\n`),
  ]
  mkdirSync('/run/dmloop', { recursive: true })
  TEXTS.forEach((text, index) => {
    writeFileSync(`/run/dmloop/zzz-${index}.json`, text)
  })
  const device = await mapFile(file)
  t.equal((await listMappings()).length, 1)
  t.equal((await openMapping(device.name)).name, device.name)
  write(device, file)
  await device.unmap()
  sh('rm -f /run/dmloop/zzz-*')
  givenBack(t, file, before)

  const again = await mapFile(file)
  const [record] = leftFiles()
  writeFileSync(`/run/dmloop/${record ?? ''}`, '{"id":"of another version"}\n')
  await (await openMapping(again.name)).unmap()
  t.equal(attributes(file), before, 'in the place of its own record')
  sh('rm -f /run/dmloop/*')
  nothingLeft(t)

  for (const part of WRONG) {
    const text = JSON.stringify({ ...RECORD, ...part })
    writeFileSync('/run/dmloop/254-0-i1.json', `${text}\n`)
    t.strictSame(await listMappings(), [], text)
  }
  sh('rm -f /run/dmloop/*')
  for (const part of ['h0', 'h00', `h${'0'.repeat(60)}`, 'x', `${'9'.repeat(20)}-h0000`]) {
    sh(`dmsetup create odd -u DMLOOP-254-0-${part} --notable`)
    const [odd] = await listMappings()
    t.match(odd, { name: 'odd', files: [] }, part)
    await odd?.unmap()
    nothingLeft(t)
  }
})

await t.test('the device is renamed', async (t) => {
  await story(t, 'named', async (device, file) => {
    sh('dmsetup rename named renamed-since')
    t.strictSame(await device.verify({ content: 'full' }), OK)
    t.equal((await openMapping(file)).name, 'renamed-since')
    return file
  })
})

await t.test('the device is removed while it is being opened', async (t) => {
  const { file, before } = userFile('vanishing')
  const { dmTable } = native
  const removeFirst = (): void => {
    native.dmTable = (...args) => {
      native.dmTable = dmTable
      sh('dmsetup remove vanishing')
      return dmTable(...args)
    }
  }
  const openers: Record<string, () => Promise<unknown>> = {
    'by its name': () => t.rejects(openMapping('vanishing'), { code: 'DMLOOP_NOT_MAPPED' }),
    'by its file': () => t.rejects(openMapping(file), { code: 'DMLOOP_NOT_MAPPED' }),
    'with all others': async () => t.strictSame(await listMappings(), []),
  }
  for (const [way, open] of Object.entries(openers)) {
    const device = await mapFile(file, { name: 'vanishing' })
    removeFirst()
    await t.test(way, open)
    await device.unmap()
  }
  const device = await mapFile(file, { name: 'vanishing' })
  write(device, file)
  removeFirst()
  await device.unmap()
  givenBack(t, file, before)
  nothingLeft(t)
})

await t.test('the filesystem is not mounted', async (t) => {
  const ways: Record<string, (device: MappedDevice, file: string) => Promise<void>> = {
    'unmap again': (device) => device.unmap(),
    releaseFile: (_, file) => releaseFile(file),
    'mapFile again': async (_, file) => (await mapFile(file)).unmap(),
    'releaseFile, without /run': async (_, file) => {
      sh('rm -rf /run/dmloop/*')
      await releaseFile(file)
    },
    listMappings: async () => {
      t.strictSame(await listMappings(), [])
    },
  }
  for (const [index, [way, finish]] of Object.entries(ways).entries()) {
    await t.test(way, async (t) => {
      const { file, before } = userFile(`away-${index}`)
      const device = await mapFile(file)
      write(device, file)
      sh(`umount ${host.path}`)
      for (let time = 0; time < 2; time++) {
        await t.rejects(device.unmap(), { code: 'DMLOOP_FILE_UNREACHABLE', remedy: /Mount/ })
        t.strictSame(deviceNames(), ['host'], 'the device is gone')
      }
      sh(`mount ${disk} ${host.path}`)
      t.match(sh(`lsattr ${file}`), /^-+i/, 'the file is still held')
      await finish(device, file)
      givenBack(t, file, before)
      await device.unmap()
      nothingLeft(t)
    })
  }
})

await t.test('the last mount is detached while somebody is in it', async (t) => {
  const { file, before } = userFile('detached')
  const device = await mapFile(file)
  write(device, file)
  const inside = spawn('sleep', ['1000'], { cwd: host.path, stdio: 'ignore' })
  await once(inside, 'spawn')
  sh(`umount -l ${host.path}`)
  await device.unmap()
  inside.kill('SIGKILL')
  await once(inside, 'exit')
  sh(`while ! mount ${disk} ${host.path}; do sleep 0.1; done`)
  givenBack(t, file, before)
  nothingLeft(t)
})

/** Takes the volume away and brings it back under another number: `taken` has the old one. */
function renumber(t: Test): void {
  const number = (): string => sh('dmsetup info -c --noheadings -o major,minor host').trim()
  const before = number()
  const [major = '', minor = ''] = before.split(':')
  sh(`umount ${host.path}; dmsetup remove --retry host
    dmsetup create taken -j ${major} -m ${minor} --table "0 8 zero"`)
  sh('dmsetup create host', TABLE)
  t.not(number(), before, 'the volume has another number')
}

await t.test('the volume comes back under another number', async (t) => {
  for (const way of ['unmap', 'open', 'without /run'] as const) {
    const { file, before } = userFile(`renumbered-${way.replace(/\W/g, '')}`)
    const device = await mapFile(file)
    write(device, file)
    renumber(t)
    sh(`mount ${disk} ${host.path}`)
    if (way === 'without /run') sh('rm -rf /run/dmloop/*')
    t.strictSame(await device.verify({ content: 'full' }), OK)
    if (way === 'unmap') await device.unmap()
    else await (await openMapping(file)).unmap()
    givenBack(t, file, before)
    sh('dmsetup remove --retry taken')
    nothingLeft(t)
  }
})

await t.test('under another number, and nothing but the mark tells', async (t) => {
  const { file, before } = userFile('only-marked')
  const device = await mapFile(file)
  write(device, file)
  renumber(t)
  await t.rejects(device.unmap(), { code: 'DMLOOP_FILE_UNREACHABLE' })
  t.strictSame(deviceNames(), ['host', 'taken'], 'the device, and its table, are gone')
  sh(`mount ${disk} ${host.path}`)
  await device.unmap()
  givenBack(t, file, before)
  sh('dmsetup remove --retry taken')
  nothingLeft(t)
})

await t.test('under another number, and nothing but the blocks tells', async (t) => {
  const { file } = userFile('only-blocks')
  // Without a guard the file must be root's, and pinned, already.
  if (filesystem === 'f2fs') sh(`chown 0 ${file}; chmod 600 ${file}; f2fs_io pinfile set ${file}`)
  const before = attributes(file)
  const device = await mapFile(file, { guard: 'none' })
  renumber(t)
  sh(`mount ${disk} ${host.path}`)
  write(device, file)
  await device.unmap()
  givenBack(t, file, before)
  sh('dmsetup remove --retry taken')
  nothingLeft(t)
})

for (const guard of GUARDS) {
  await t.test(`what has the old number is another filesystem by now, ${guard}`, async (t) => {
    const { file, before } = userFile(`impostor-${guard}`)
    const device = await mapFile(file, { guard })
    write(device, file)
    sh(`umount ${host.path}; dmsetup rename host real; mkdir -p /tmp/real`)
    const real = sh('dmsetup table real')
    sh('dmsetup load real; dmsetup resume real', TABLE.replace('1:0', '1:1'))
    sh(`wipefs -aq /dev/mapper/real; mkfs.${filesystem} -q /dev/mapper/real
    mount /dev/mapper/real /tmp/real`)
    const UNREACHABLE = { code: 'DMLOOP_FILE_UNREACHABLE' }
    await t.rejects(device.unmap(), UNREACHABLE, 'the table tells')
    await t.rejects(device.unmap(), UNREACHABLE, 'the UUID tells, or the mark')
    sh('umount /tmp/real; dmsetup load real', real)
    sh(`dmsetup resume real; dmsetup rename real host; mount ${disk} ${host.path}`)
    await device.unmap()
    givenBack(t, file, before)
    nothingLeft(t)
  })
}

/** A device for a copy of the volume on the other disk. */
const createCopy = (options = ''): void =>
  void sh(`dmsetup create copy ${options}`, TABLE.replace('1:0', '1:1'))

/** Two mounted filesystems with one UUID. */
const BOTH = filesystem === 'xfs' ? '-o nouuid' : ''
const mountCopy = (): void =>
  void sh(`mkdir -p /tmp/copy; mount ${BOTH} /dev/mapper/copy /tmp/copy`)

const copyDisk = (): void =>
  void sh(`sync; fsfreeze -f ${host.path}
    dd if=/dev/ram0 of=/dev/ram1 bs=1M iflag=direct oflag=direct status=none; fsfreeze -u ${host.path}`)

const removeCopy = (): void => void sh('umount /tmp/copy; dmsetup remove --retry copy')

for (const guard of GUARDS) {
  await t.test(`a copy of the volume takes its number, guard ${guard}`, async (t) => {
    const { file, before } = userFile(`numbered-${guard}`)
    const device = await mapFile(file, { guard })
    copyDisk()
    const number = sh('dmsetup info -c --noheadings -o major,minor host').trim()
    const [major = '', minor = ''] = number.split(':')
    sh(`umount ${host.path}; dmsetup remove --retry host`)
    createCopy(`-j ${major} -m ${minor}`)
    sh('dmsetup create host', TABLE)
    sh(`mount ${disk} ${host.path}`)
    mountCopy()
    const copy = file.replace(host.path, '/tmp/copy')
    const copied = attributes(copy)
    write(device, file)
    t.strictSame(await device.verify({ content: 'full' }), OK, 'verify looks at the original')
    await t.rejects(openMapping(copy), { code: 'DMLOOP_NOT_MAPPED' }, 'the copy is not mapped')
    sh(`cat ${file} >/dev/null`)
    await device.unmap()
    t.equal(attributes(copy), copied, 'the copy is as it was')
    givenBack(t, file, before)
    removeCopy()
    nothingLeft(t)
  })
}

await t.test('a copy of the volume has copies of the marks', async (t) => {
  const [one, two] = [userFile('copied-one'), userFile('copied-two')]
  const [first, second] = [await mapFile(one.file), await mapFile(two.file)]
  copyDisk()
  createCopy()
  mountCopy()
  const [copyOne, copyTwo] = [one, two].map(({ file }) => file.replace(host.path, '/tmp/copy')) as [
    string,
    string,
  ]
  const copied = attributes(copyOne)
  await t.rejects(openMapping(copyTwo), { code: 'DMLOOP_NOT_MAPPED' })
  await (await mapFile(copyTwo)).unmap()
  t.equal(attributes(copyTwo), two.before, 'the copy can be mapped, and is released')
  await releaseFile(copyTwo)
  t.strictSame(await second.verify(), OK, 'the original is still mapped')
  t.equal((await openMapping(two.file)).name, second.name, 'and still found')

  write(first, one.file)
  sh(`umount ${host.path}`)
  await t.rejects(
    first.unmap(),
    { code: 'DMLOOP_FILE_UNREACHABLE' },
    'the copy is not taken for it',
  )
  t.equal(attributes(copyOne), copied, 'the copy is as it was')
  sh(`mount ${BOTH} ${disk} ${host.path}`)
  await first.unmap()
  await second.unmap()
  givenBack(t, one.file, one.before)
  removeCopy()
  nothingLeft(t)
})

await t.test('the file is deleted by root', async (t) => {
  const deleteFile = (file: string): void => void sh(`chattr -i ${file}; rm ${file}; sync`)
  const { file } = userFile('deleted')
  const device = await mapFile(file)
  deleteFile(file)
  t.match((await device.verify()).problems, [{ code: 'DMLOOP_FILE_CHANGED' }])
  await device.unmap()
  nothingLeft(t)
  // Linux tells the UUID of an f2fs since 6.9.
  if (filesystem === 'f2fs') return
  const late = userFile('deleted-late')
  const second = await mapFile(late.file)
  sh(`umount ${host.path}`)
  await t.rejects(second.unmap(), { code: 'DMLOOP_FILE_UNREACHABLE' })
  sh(`mount ${disk} ${host.path}`)
  deleteFile(late.file)
  await second.unmap()
  nothingLeft(t)
})

/** Has the mark on a file name another mapping, of the volume when it had another number. */
function forgeMark(file: string): void {
  const mark = sh(`getfattr -n trusted.dmloop --only-values ${file}`)
  const forged = mark.replace(/^2 \d+-\d+-(h\S+) \S+/, '2 99-99-$1 forged')
  sh(`chattr -i ${file}; setfattr -n trusted.dmloop -v '${forged}' ${file}; chattr +i ${file}`)
}

await t.test('a mark of another mapping', async (t) => {
  const pair = [userFile('forged-first'), userFile('forged-second')]
  const device = await mapFile(pair.map(({ file }) => file))
  forgeMark(pair[1]?.file ?? '')
  await device.unmap()
  for (const { file, before } of pair) t.equal(attributes(file), before, 'nobody has its blocks')
  nothingLeft(t)

  const { file, before } = userFile('forged')
  const renumbered = await mapFile(file)
  write(renumbered, file)
  renumber(t)
  sh(`mount ${disk} ${host.path}`)
  forgeMark(file)
  await t.rejects(releaseFile(file), { code: 'DMLOOP_ALREADY_MAPPED' }, 'a mapping has its blocks')
  t.match(sh(`lsattr ${file}`), /^-+i/, 'the guard stays')
  await (await openMapping(renumbered.name)).unmap()
  givenBack(t, file, before)
  sh('dmsetup remove --retry taken')
  nothingLeft(t)
})

await t.test('a process with its own /run unmaps the file and maps it again', async (t) => {
  const OWN_RUN = 'mount -t tmpfs none /run'
  const remap = (name: string, file: string): void => {
    t.equal(elsewhere(OWN_RUN, 'unmap', name), 'unmapped')
    t.match(elsewhere(OWN_RUN, 'map', file, name), /^mapped/)
  }
  await story(
    t,
    'found-again',
    (device, file) => {
      const { minor } = device
      remap('found-again', file)
      t.match(sh('dmsetup info -c --noheadings -o minor found-again'), `${minor}`)
      return file
    },
    {},
    async () => {
      const found = await openMapping('found-again')
      write(found, found.files[0] ?? '')
      t.strictSame(await found.verify({ content: 'full' }), OK)
      await found.unmap()
    },
  )
  await story(
    t,
    'unmapped-late',
    (_, file) => {
      remap('unmapped-late', file)
      return file
    },
    {},
    async (old) => {
      t.match((await old.verify()).problems, [{ code: 'DMLOOP_FILE_CHANGED', message: /made for/ }])
      await old.unmap()
      t.strictSame(deviceNames(), ['host', 'unmapped-late'], 'the new mapping stays')
      const found = await openMapping(old.files[0] ?? '')
      write(found, found.files[0] ?? '')
      await found.unmap()
      await listMappings()
    },
  )
})

await t.test('an old object finishes nothing of a later mapping', async (t) => {
  for (const guard of GUARDS) {
    const pair = [userFile(`early-${guard}`), userFile(`late-${guard}`)]
    const files = pair.map(({ file }) => file)
    const [, file = ''] = files
    const old = await mapFile(file, { name: 'old', guard })
    sh('dmsetup remove --retry old')
    const device = await mapFile(files, { guard })
    // Pages that are older than the disk: to drop them would fail.
    const reader = spawn(HOLD_PAGES, ['locked', file, 'root'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    t.teardown(() => reader.kill('SIGKILL'))
    await once(reader.stdout, 'data')
    const out = openSync(device.path, 'r+')
    writeSync(out, Buffer.alloc(BLOCK, 'B'), 0, BLOCK, SIZE)
    fsyncSync(out)
    closeSync(out)
    await old.unmap()
    t.strictSame(await device.verify(), OK, `guard ${guard}`)
    reader.stdin.end()
    await once(reader, 'exit')
    await device.unmap()
    for (const { file, before } of pair) t.equal(attributes(file), before)
    nothingLeft(t)
  }
})

await t.test('the mark of another file says nothing', async (t) => {
  const { file } = userFile('original')
  const copy = `${host.path}/copy`
  const device = await mapFile(file)
  sh(`cp -a --reflink=never ${file} ${copy}; sync ${copy}`)
  await device.unmap()
  t.match(sh(`getfattr -d -m trusted ${copy}`), /trusted.dmloop/, 'cp -a has copied it')
  sh(`chattr +i ${copy}`)
  const before = sh(`lsattr ${copy}; stat -c '%u %a' ${copy}`)
  const { problems } = await planFile(copy)
  // No mark can be written to it, and on f2fs the guard needs one.
  const expected = filesystem === 'f2fs' ? ['DMLOOP_NOT_PINNED'] : []
  t.strictSame(
    problems.map(({ code }) => code),
    expected,
  )
  if (filesystem !== 'f2fs') await (await mapFile(copy)).unmap()
  t.equal(sh(`lsattr ${copy}; stat -c '%u %a' ${copy}`), before, 'its own flag stays after unmap')
  await releaseFile(copy)
  t.equal(sh(`lsattr ${copy}; stat -c '%u %a' ${copy}`), before, 'and after releaseFile')
  sh(`chattr -i ${copy}`)
  await (await mapFile(copy)).unmap()
  t.notMatch(sh(`lsattr ${copy}`), /^-+i/)
  sh(`rm ${copy}`)
})

await t.test('a lock on the file keeps processes apart, whatever their /run', async (t) => {
  const { file, before } = userFile('locked')
  const lock = async (): Promise<() => Promise<void>> => {
    const holder = spawn('flock', [file, 'sh', '-c', 'echo locked; exec sleep 1000'], {
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    })
    await once(holder.stdout, 'data')
    return async () => {
      process.kill(-(holder.pid ?? 0), 'SIGKILL')
      await once(holder, 'exit')
    }
  }
  const LOCKED = {
    code: 'DMLOOP_TIMEOUT',
    message: /\(flock\) by process \d+ \(flock\) for 300 ms/,
  }
  let unlock = await lock()
  await t.rejects(mapFile(file, { timeout: 300 }), LOCKED)
  t.equal(attributes(file), before)
  await unlock()
  const device = await mapFile(file)
  write(device, file)
  unlock = await lock()
  await t.rejects(device.unmap({ timeout: 300 }), LOCKED)
  t.strictSame(await device.verify(), OK, 'the mapping is whole')
  await unlock()
  await device.unmap()
  givenBack(t, file, before)
  nothingLeft(t)
})

/** Runs a shell command as a user, until it is told to end or the test does; it prints something when ready. */
async function holder(t: Test, uid: number, command: string): Promise<() => Promise<void>> {
  const args = ['--reuid', `${uid}`, '--clear-groups', 'sh', '-c', command]
  const child = spawn('setpriv', args, { stdio: ['ignore', 'pipe', 'inherit'], detached: true })
  const exited = once(child, 'exit')
  let ended = false
  const end = async (): Promise<void> => {
    if (!ended) process.kill(-(child.pid ?? 0), 'SIGKILL')
    ended = true
    await exited
  }
  t.teardown(end)
  await once(child.stdout, 'data')
  return end
}

// On f2fs nobody but root can open a mapped file.
const othersOpen = filesystem !== 'f2fs'

if (othersOpen)
  await t.test('a reader has a shared lock on it', async (t) => {
    const { file, before } = userFile('locked-shared')
    const device = await mapFile(file)
    write(device, file)
    const end = await holder(t, 65534, `exec flock -s ${file} sh -c 'echo locked; exec sleep 1000'`)
    await device.unmap({ timeout: 300 })
    await end()
    givenBack(t, file, before)
    nothingLeft(t)
  })

if (othersOpen)
  await t.test('its owner has a lease on it', async (t) => {
    const { file, before } = userFile('leased')
    // fcntl(2): F_SETLEASE, F_WRLCK. The kernel asks for it in vain.
    const lease = `exec perl -e '
    $SIG{IO} = sub {}; open F, "<", "${file}" or die; fcntl F, 1024, 1 or die "lease: $!";
    $| = 1; print "leased"; select undef, undef, undef, 0.1 while 1'`
    const LEASED = { code: 'DMLOOP_FILE_IN_USE', message: /has a lease of process \d+ \(perl\)/ }
    const end = await holder(t, 1000, lease)
    await t.rejects(mapFile(file, { timeout: 300 }), LEASED)
    t.match((await planFile(file)).problems, [LEASED])
    await end()
    const device = await mapFile(file)
    write(device, file)
    const seconds = sh('cat /proc/sys/fs/lease-break-time')
    sh('echo 3 >/proc/sys/fs/lease-break-time')
    const endSecond = await holder(t, 1000, lease)
    await t.rejects(device.unmap({ timeout: 300 }), LEASED)
    t.strictSame(deviceNames(), ['host'], 'the device is gone')
    // lsattr would have to open it.
    t.match(sh(`getfattr -m trusted ${file}`), /dmloop/, 'and the file is still guarded')
    await device.unmap()
    await endSecond()
    sh(`echo ${seconds.trim()} >/proc/sys/fs/lease-break-time`)
    givenBack(t, file, before)
    nothingLeft(t)
  })

await t.test('a caller without CAP_DAC_READ_SEARCH', async (t) => {
  const unmap = (name: string): string =>
    sh(
      `setpriv --bounding-set -dac_read_search "${process.execPath}" "${PEER}" unmap ${name}`,
    ).trim()
  await story(
    t,
    'incapable',
    (_, file) => file,
    {},
    (device) => {
      t.equal(unmap('incapable'), 'unmapped')
      return device.unmap()
    },
  )
  await story(t, 'incapable-moved', rename, {}, (device) => {
    t.equal(unmap('incapable-moved'), 'EPERM', 'it needs a handle, and says so')
    t.strictSame(deviceNames(), ['host', 'incapable-moved'])
    return device.unmap()
  })
})

await t.test('a file that cannot be closed keeps no other one locked', async (t) => {
  const { file } = userFile('unclosed')
  const other = userFile('closed').file
  const files = await BackingFiles.open([file, other], NO_WAIT)
  await files.flock(NO_WAIT)
  const { close } = native
  native.close = async (fd) => {
    await close(fd)
    return fd === files.list[0]?.fd
      ? { failure: { errno: -5, syscall: 'close' } }
      : { value: undefined }
  }
  await t.rejects(files[Symbol.asyncDispose](), { code: 'EIO', syscall: 'close' })
  native.close = close
  t.equal(sh(`flock -n ${other} echo locked`), 'locked\n')
})

await t.test('a mark that nobody can read is no error', async (t) => {
  const file = `${host.path}/marked`
  randomFile(file, SIZE)
  const device = await mapFile(file)
  const mark = `2 ${device.uuid.replace('DMLOOP-', '')} x`
  await device.unmap()
  const TEXTS = [
    ...['x'.repeat(300), '3 h01 x -i', 'immutable', '2', '2 h x -a', ''],
    ...['-a a=x:644', '-a a=5000000000:644', '-a a=1.5:644', '-a a=1:9'].map((w) => `${mark} ${w}`),
    ...['-i o=x', '-i o=1.5', '-i o=99999999999999999999'].map((w) => `${mark} ${w}`),
  ]
  for (const text of TEXTS) {
    sh(`setfattr -n trusted.dmloop -v "${text}" ${file}`)
    t.strictSame((await planFile(file)).problems, [], `"${text.slice(0, 20)}"`)
    const before = sh(`lsattr ${file}; stat -c '%u %a' ${file}`)
    await releaseFile(file)
    await (await mapFile(file)).unmap()
    t.equal(sh(`lsattr ${file}; stat -c '%u %a' ${file}`), before)
  }
})

host.remove()
