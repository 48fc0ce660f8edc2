// node identity.js FILESYSTEM: a mapping is known by the file itself. Whatever becomes of the paths that lead
// to it, of the namespaces and of the name of the device, unmap gives the file back as it was, with what was
// written to the device, and touches no other file.
import { mkdirSync, symlinkSync } from 'node:fs'
import t from 'tap'
import { listMappings, mapFile, openMapping, releaseFile, type MappedDevice } from 'dmloop'
import { native } from '#lib/kernel/native.js'
import { deviceNames, fileState, sh } from './lab.js'
import {
  disk,
  elsewhere,
  givenBack,
  host,
  nothingLeft,
  PEER,
  story,
  userFile,
  write,
} from './user-file.js'

const OK = { ok: true, problems: [] }

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

host.remove()
