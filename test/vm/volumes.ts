// node volumes.js FILESYSTEM: the volume of a mapped file goes away, comes back under another number, or is
// copied. unmap gives back the file itself and never its copy on another volume; while the file cannot be
// reached, it says so and can finish later.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import { listMappings, mapFile, openMapping, releaseFile, type MappedDevice } from 'dmloop'
import { deviceNames, oneSegment, sh } from './lab.js'
import {
  attributes,
  disk,
  filesystem,
  givenBack,
  GUARDS,
  host,
  nothingLeft,
  userFile,
  write,
} from './user-file.js'

const OK = { ok: true, problems: [] }

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
  sh('dmsetup create host', oneSegment())
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
    sh('dmsetup load real; dmsetup resume real', oneSegment(1))
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
const createCopy = (options = ''): void => void sh(`dmsetup create copy ${options}`, oneSegment(1))

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
    sh('dmsetup create host', oneSegment())
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

host.remove()
