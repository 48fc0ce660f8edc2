// node records.js FILESYSTEM: what says that a file is mapped. The records in /run and the mark on the file may be
// lost, be nonsense or be of another mapping, and others have locks and leases on the file: no mapping is lost
// or made twice, and nothing of another one is undone.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, fsyncSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { listMappings, mapFile, openMapping, planFile, releaseFile } from 'dmloop'
import { native } from '#lib/kernel/native.js'
import { NO_WAIT } from '#lib/kernel/wait.js'
import { BackingFiles } from '#lib/plan/backing-file.js'
import { deviceNames, leftFiles, randomFile, sh } from './lab.js'
import {
  attributes,
  BLOCK,
  elsewhere,
  filesystem,
  givenBack,
  GUARDS,
  host,
  nothingLeft,
  SIZE,
  story,
  userFile,
  write,
} from './user-file.js'

const HOLD_PAGES = fileURLToPath(new URL('../../../build/Release/hold-pages', import.meta.url))
const OK = { ok: true, problems: [] }

/** Has another process lock a file. Returns how that ends. */
async function locked(file: string): Promise<() => Promise<void>> {
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

await t.test('locks that killed processes have left', async (t) => {
  const [kept = '', ...others] = ['swap-space', 'name-a', 'wrap-1-0'].map(
    (name) => `/run/dmloop/${name}.json`,
  )
  sh(`mkdir -p /run/dmloop; touch ${[kept, ...others].join(' ')}`)
  const unlock = await locked(kept)
  await listMappings()
  t.strictSame(leftFiles(), ['swap-space.json'], 'only that of a process that lives is there')
  await unlock()
  await listMappings()
  t.strictSame(leftFiles(), [])
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
  const LOCKED = {
    code: 'DMLOOP_TIMEOUT',
    message: /\(flock\) by process \d+ \(flock\) for 300 ms/,
  }
  let unlock = await locked(file)
  await t.rejects(mapFile(file, { timeout: 300 }), LOCKED)
  t.equal(attributes(file), before)
  await unlock()
  const device = await mapFile(file)
  write(device, file)
  unlock = await locked(file)
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
