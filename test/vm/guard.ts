// node guard.js FILESYSTEM: a mapped file holds still: what anyone else tries with it fails, or leaves
// the map true, and the file comes back as it was.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { mapFile, planFile, releaseFile, type DmloopError } from 'dmloop'
import { native, result } from '#lib/kernel/native.js'
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
  scaled,
  sh,
} from './lab.js'

const EVERYTHING_OK = { ok: true, problems: [] }
const MKFS: Record<string, string> = { xfs: '-m reflink=1', f2fs: '-q' }
/** Defragmenters are free to refuse or to do nothing, as long as the map stays true. */
const DEFRAGMENT: Record<string, (file: string) => string> = {
  ext4: (file) => `e4defrag ${file}`,
  xfs: (file) => `xfs_fsr -v ${file}`,
  f2fs: (file) => `f2fs_io defrag_file 0 1048576 ${file}`,
}
const [filesystem = 'ext4'] = process.argv.slice(2)
const host = makeHost(filesystem, oneSegment(), { mkfs: MKFS[filesystem] ?? '' })
const file = `${host.path}/image`

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

await t.test('nobody can write to, move or delete a mapped file', async (t) => {
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
  sh(`${DEFRAGMENT[filesystem]?.(file)} || true`)
  t.strictSame(await device.verify({ content: 'full' }), EVERYTHING_OK, 'defragmented')
  await device.unmap()
  t.equal(fileState(file), before, 'bytes, flags, owner, mode and mtime are those of before')
  t.equal(sh(`getfattr -m - ${file}`), '', 'no mark is left')
})

await t.test('a writer from before is found', async (t) => {
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

await t.test('a writer who comes while the flag is being set is found at once', async (t) => {
  const before = fileState(file)
  const { dmCreate, setImmutable } = native
  let writer = 0
  let devices = 0
  // It has passed the flag's check, and waits for the lease.
  native.setImmutable = async (...args) => {
    if (writer === 0) {
      const late = spawn('sh', ['-c', `exec sleep 1000 >>${file}`], { stdio: 'ignore' })
      writer = late.pid ?? 0
      await sleep(1000)
    }
    return await setImmutable(...args)
  }
  native.dmCreate = (...args) => {
    devices++
    return dmCreate(...args)
  }
  try {
    await t.rejects(mapFile(file), { code: 'DMLOOP_FILE_IN_USE' })
  } finally {
    Object.assign(native, { dmCreate, setImmutable })
    process.kill(writer)
  }
  t.equal(devices, 0, 'before any device is made')
  for (let wait = 0; wait < 100 && fileState(file) !== before; wait++) await sleep(20)
  t.equal(fileState(file), before)
})

await t.test('a writer who comes before the device goes live is found', async (t) => {
  const before = fileState(file)
  const { dmCreate, dmResume } = native
  let writer = -1
  // Root takes the flag off after the extents have been read, and opens the file for writing.
  native.dmCreate = async (...args) => {
    sh(`chattr -i ${file}`)
    writer = openSync(file, 'r+')
    return await dmCreate(...args)
  }
  try {
    await t.rejects(mapFile(file), {
      code: 'DMLOOP_FILE_IN_USE',
      message: new RegExp(`process ${process.pid} `),
    })
  } finally {
    native.dmCreate = dmCreate
    closeSync(writer)
  }
  t.equal(fileState(file), before)
  t.strictSame(deviceNames(), [host.name])

  // And while it goes live: whoever opens the file then waits for the lease, which tells. On f2fs chattr
  // would wait for it as well, and a reader is enough.
  const opening = filesystem === 'f2fs' ? '<' : '>>'
  native.dmResume = async (...args) => {
    if (opening === '>>') sh(`chattr -i ${file}`)
    const late = spawn('sh', ['-c', `exec sleep 1000 ${opening}${file}`], { stdio: 'ignore' })
    writer = late.pid ?? 0
    await sleep(1000)
    return await dmResume(...args)
  }
  try {
    await t.rejects(mapFile(file), { code: 'DMLOOP_FILE_IN_USE' })
  } finally {
    native.dmResume = dmResume
    process.kill(writer)
  }
  t.equal(fileState(file), before)
  t.strictSame(deviceNames(), [host.name])
})

/** On f2fs the guard needs more than the flag, and could not be noted on an immutable file. */
if (filesystem !== 'f2fs') {
  await t.test('a flag that was there before stays', async (t) => {
    sh(`chattr +i ${file}`)
    const before = fileState(file)
    const device = await mapFile(file)
    await device.unmap()
    t.equal(fileState(file), before)
    await releaseFile(file)
    t.equal(fileState(file), before, 'releaseFile leaves it, too')
    sh(`chattr -i ${file}`)
  })
}

await t.test('what a crash or a reboot left is undone', async (t) => {
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

await t.test('verify() sees that the guard was taken away', async (t) => {
  const device = await mapFile(file)
  sh(`chattr -i ${file}`)
  t.match(await device.verify(), { ok: false, problems: [{ code: 'DMLOOP_UNGUARDABLE', file }] })
  await device.unmap()
})

await t.test('never a stale byte', async (t) => {
  const ROUNDS = scaled(200)
  const random = randomNumbers(5)
  const image = `${host.path}/rounds`
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

if (filesystem === 'xfs') {
  await t.test('a clone is found by verify()', async (t) => {
    const cloned = `${host.path}/cloned`
    randomFile(cloned, 1 << 20)
    sh(`chmod 777 ${host.path}; chmod 644 ${cloned}`)
    const device = await mapFile(cloned)
    // An immutable file can be cloned from, by whoever can read it: then a write through the device changes
    // the clone as well.
    const asReader = 'setpriv --reuid 1000 --regid 1000 --clear-groups'
    sh(`${asReader} xfs_io -f -c 'reflink ${cloned} 64k 0 128k' ${host.path}/clone; sync`)
    t.match(await device.verify(), {
      ok: false,
      problems: [{ code: 'DMLOOP_SHARED_EXTENT', file: cloned, offset: 65536, length: 131072 }],
    })
    await device.unmap()
  })
}

if (filesystem === 'f2fs') {
  const minor = sh(`stat -L -c %Lr /dev/mapper/${host.name}`).trim()
  const moved = (): number =>
    ['foreground', 'background']
      .map((way) => readFileSync(`/sys/fs/f2fs/dm-${minor}/moved_blocks_${way}`, 'utf8'))
      .reduce((sum, count) => sum + Number(count), 0)

  /** Has f2fs collect garbage (F2FS_IOC_GARBAGE_COLLECT), and returns how many blocks it moved. */
  const collect = (): number => {
    const before = moved()
    // Both ways, segment by segment, until there is none left: then it fails, which is fine.
    for (const [way, times] of Object.entries({ 0: 100, 1: 20 })) {
      const ask = `ioctl($f, 0x4004f506, my $way = pack("L", ${way}))`
      sh(`perl -e 'open(my $f, "<", shift); for (1..${times}) { ${ask} }' ${host.path}; sync`)
    }
    return moved() - before
  }

  await t.test('f2fs leaves a mapped file where it is when it cleans up', async (t) => {
    const pinned = `${host.path}/pinned`
    const loose = `${host.path}/loose`
    // Two files written in turn, and others between them that are deleted: every segment has garbage.
    sh(`for i in $(seq 24); do
          for file in ${pinned} ${loose}; do head -c 128K /dev/urandom >>$file; sync $file; done
          head -c 768K /dev/urandom >${host.path}/garbage-$i; sync ${host.path}/garbage-$i
        done
        rm ${host.path}/garbage-*; sync`)
    const before = fileState(pinned)
    const device = await mapFile(pinned)
    const place = sh(`filefrag -v ${loose}`)
    t.ok(collect() > 500, 'blocks were moved')
    t.not(sh(`filefrag -v ${loose}`), place, 'those of the file next to it among them')
    t.strictSame(await device.verify({ content: 'full' }), EVERYTHING_OK)
    await device.unmap()
    t.equal(fileState(pinned), before, 'no pin is left')
    const free = sh(`filefrag -v ${pinned}`)
    collect()
    t.not(sh(`filefrag -v ${pinned}`), free, 'and now it is moved')
  })

  await t.test('nobody but root can take the pin away', async (t) => {
    const NOBODY = 'setpriv --reuid 1000 --regid 1000 --clear-groups'
    // F2FS_IOC_SET_PIN_FILE, by a descriptor for reading.
    const UNPIN = `perl -e 'open(my $f, "<", shift) or exit 3; ioctl($f, 0x4004f50d, my $no = pack("L", 0)) or exit 4'`
    const unpin = (prefix: string): string => sh(`${prefix} ${UNPIN} ${file} || echo $?`).trim()
    const flags = (): string => sh(`lsattr ${file}`)
    sh(
      `chmod 644 ${file}; chown 1000:1000 ${file}; setfacl -m u:1000:rw ${file} 2>/dev/null || true`,
    )
    const before = fileState(file)
    const device = await mapFile(file)
    t.equal(unpin(NOBODY), '3', 'its owner cannot open it')
    t.equal(unpin(`${NOBODY} unshare -r`), '3', 'nor as root of a user namespace')
    t.match(flags(), /C-/, 'and the pin stays')
    t.strictSame(await device.verify(), EVERYTHING_OK)
    sh(`chattr -i ${file}; chmod 644 ${file}`)
    t.match((await device.verify()).problems, [
      { code: 'DMLOOP_UNGUARDABLE' },
      { code: 'DMLOOP_NOT_PINNED', message: /other users than root/ },
    ])
    await device.unmap()
    t.equal(fileState(file), before, 'owner and mode come back')

    // Who has it open already could do so, too.
    const reader = spawn('sh', ['-c', `exec 3<${file}; echo open; exec sleep 1000`], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    await once(reader.stdout, 'data')
    const message = new RegExp(`is open by process ${reader.pid ?? 0} `)
    await t.rejects(mapFile(file), { code: 'DMLOOP_FILE_IN_USE', message })
    t.equal(fileState(file), before, 'refused, and as it was')
    reader.kill('SIGKILL')
    await once(reader, 'exit')
    await (await mapFile(file)).unmap()
    sh(`chown 0:0 ${file}; chmod 600 ${file}`)
  })

  await t.test('nor whoever has opened the file before, with guard none', async (t) => {
    sh(`chown 1000 ${file}; chmod 644 ${file}`)
    const reader = spawn('sh', ['-c', `exec 3<${file}; echo open; exec sleep 1000`], {
      stdio: ['ignore', 'pipe', 'ignore'],
      uid: 1000,
    })
    await once(reader.stdout, 'data')
    sh(`chown 0 ${file}; chmod 600 ${file}; f2fs_io pinfile set ${file}`)
    const before = fileState(file)
    const message = new RegExp(`is open by process ${reader.pid ?? 0} .*can unpin it`)
    const { dmCreate } = native
    let late = -1
    native.dmCreate = async (...args) => {
      late = openSync(file, 'r')
      return await dmCreate(...args)
    }
    await t.rejects(mapFile(file, { guard: 'none' }), { code: 'DMLOOP_FILE_IN_USE', message })
    t.equal(late, -1, 'before any device is made')
    reader.kill('SIGKILL')
    await once(reader, 'exit')

    // Nor whoever opens it until the device goes live.
    for (const guard of ['none', 'immutable'] as const) {
      const own = new RegExp(`is open by process ${process.pid} `)
      await t.rejects(mapFile(file, { guard }), { code: 'DMLOOP_FILE_IN_USE', message: own }, guard)
      closeSync(late)
    }
    native.dmCreate = dmCreate
    const device = await mapFile(file, { guard: 'none' })
    t.strictSame(await device.verify(), EVERYTHING_OK)
    await device.unmap()
    t.equal(fileState(file), before)
    sh(`f2fs_io pinfile unset ${file}`)
  })

  await t.test('an idmapped mount', async (t) => {
    const IDMAPPED = '/tmp/idmapped'
    // uid 1000 of the filesystem is root there: open_tree, mount_setattr, move_mount.
    const idmap = `unshare -U sleep 1000 </dev/null >/dev/null 2>&1 & user=$!
      while [ $(readlink /proc/$user/ns/user) = $(readlink /proc/self/ns/user) ]; do sleep 0.05; done
      printf '1000 0 1\\n0 1000 1\\n' >/proc/$user/uid_map; echo 0 0 65536 >/proc/$user/gid_map
      mkdir -p ${IDMAPPED}
      perl -e '($from, $to, $no) = map { "$_\\0" } @ARGV[0, 1], "";
        $tree = syscall(428, -100, $from, 1); open $ns, "<", "/proc/$ARGV[2]/ns/user" or die $!;
        $how = pack "QQQQ", 0x100000, 0, 0, fileno $ns;
        syscall(442, $tree, $no, 0x1000, $how, 32) == 0 or die $!;
        syscall(429, $tree, $no, -100, $to, 4) == 0 or die $!' ${host.path} ${IDMAPPED} $user
      kill $user`
    const there = `${IDMAPPED}/image`
    const problem = { code: 'DMLOOP_UNGUARDABLE', message: /idmapped/, remedy: /not idmapped/ }
    sh(`chown 1000 ${file}; chmod 600 ${file}; f2fs_io pinfile set ${file}`)
    const before = fileState(file)
    sh(idmap)
    t.equal(sh(`stat -c %u ${there}`).trim(), '0', 'only root can open it, as the mount shows it')
    for (const guard of ['immutable', 'none'] as const) {
      t.match((await planFile(there, { guard })).problems, [problem], guard)
      await t.rejects(mapFile(there, { guard }), problem, guard)
    }
    t.equal(fileState(file), before)

    const device = await mapFile(file)
    sh(`umount ${host.path}`)
    t.match((await device.verify()).problems, [problem])
    await t.rejects(device.unmap(), problem, 'its owner cannot be restored there')
    await t.rejects(releaseFile(there), problem)
    await t.rejects(mapFile(there), problem)
    // In mountinfo the idmapped one comes first.
    sh(`mount /dev/mapper/${host.name} ${host.path}`)
    t.match(fileState(file), /"uid":0.*-i/, 'the guard has stayed')
    await device.unmap()
    t.equal(fileState(file), before, 'and its owner comes back')
    sh(`umount ${IDMAPPED}; f2fs_io pinfile unset ${file}; chown 0 ${file}`)
  })

  await t.test('verify() sees that a pin was given up', async (t) => {
    const device = await mapFile(file)
    await using handle = await open(file)
    await result(native.setPinned(handle.fd, false))
    t.match(await device.verify(), { ok: false, problems: [{ code: 'DMLOOP_NOT_PINNED', file }] })
    await device.unmap()
  })

  await t.test('verify() sees that a pin will be given up', async (t) => {
    const device = await mapFile(file)
    // f2fs 6.1 finds other victims for as long as anyone cares to wait.
    const honest = native.getPinCount
    native.getPinCount = () => Promise.resolve({ value: 1500 })
    const { problems } = await device.verify()
    native.getPinCount = honest
    t.match(problems, [{ code: 'DMLOOP_NOT_PINNED', message: /1500 times, and unpins it at 2048/ }])
    await device.unmap()
  })

  await t.test('a pin of somebody else stays', async (t) => {
    const pin = async (pinned: boolean): Promise<void> => {
      await using handle = await open(file)
      await result(native.setPinned(handle.fd, pinned))
    }
    await pin(true)
    const before = fileState(file)
    await (await mapFile(file)).unmap()
    t.equal(fileState(file), before)
    t.match(before, /C-/, 'it was there')
    sh(`chmod 600 ${file}; chattr +i ${file}`)
    await (await mapFile(file, { guard: 'none' })).unmap()
    await (await mapFile(file)).unmap()
    await pin(false)
    await t.rejects(mapFile(file), { code: 'DMLOOP_NOT_PINNED', message: /immutable already/ })
    await t.rejects(mapFile(file, { guard: 'none' }), { code: 'DMLOOP_NOT_PINNED' })
    await pin(true)
    sh(`chattr -i ${file}; chmod 640 ${file}; chattr +i ${file}`)
    await t.rejects(mapFile(file), { code: 'DMLOOP_NOT_PINNED', message: /immutable already/ })
    const open640 = mapFile(file, { guard: 'none' })
    await t.rejects(open640, { code: 'DMLOOP_NOT_PINNED', message: /other users than root/ })
    sh(`chattr -i ${file}`)
    await pin(false)
  })
}

await t.test('nothing is left', (t) => {
  t.strictSame(deviceNames(), [host.name])
  t.strictSame(leftFiles(), [])
  t.end()
})
host.remove()
