// Whether udev is there, what is left of those who waited for it, and what it sees of a device.
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { lstatSync, readFileSync, readlinkSync } from 'node:fs'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { listMappings, mapFile, wrapDevice, type MappedDevice } from 'dmloop'
import { native, result } from '#lib/kernel/native.js'
import { deviceNames, leftCookies, leftFiles, makeHost, oneSegment, randomFile, sh } from './lab.js'

const host = makeHost('ext4', oneSegment(), { name: 'host' })
const file = `${host.path}/image`
randomFile(file, 1 << 20)

const PEER = fileURLToPath(new URL('peer.js', import.meta.url))
const peer = async (...args: string[]): Promise<string> =>
  (await promisify(execFile)(process.execPath, [PEER, ...args])).stdout.trim()

/** Starts a process that stays, at most as long as the test, once it has said something. */
async function start(t: Test, command: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  await new Promise((resolve, reject) => {
    child.stdout.once('data', resolve)
    child.once('exit', () => {
      reject(new Error(`ended: ${args.join(' ')}`))
    })
  })
  return child
}

async function kill(child: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await ended
}

const clean = (t: Test): void => {
  t.strictSame(deviceNames(), ['host'], 'no device is left')
  t.strictSame([...leftFiles(), ...leftCookies()], [], 'nothing else either')
}

// --- what udev sees of a device ---------------------------------------------------------------------

// udev watches a device only after it has let its maker go on: it can miss that of mkfs.
sh('udevadm trigger --settle --action=change "/sys/block/$(basename $(readlink /dev/mapper/host))"')
const uuid = sh('blkid -o value -s UUID /dev/mapper/host').trim()

/** A filesystem that takes itself for the host, in all of a file. */
function twinOfHost(path: string): void {
  sh(`truncate -s 8M /tmp/twin; mkfs.ext4 -qF -U ${uuid} /tmp/twin`)
  // Every block written, those that mkfs leaves out too.
  sh(`cat /tmp/twin >${path}; sync ${path}; rm /tmp/twin`)
}

/** Where the host's UUID leads to, and what udev has found on a device. */
function seen({ minor }: MappedDevice): { uuid: string; node: boolean; found: string[] } {
  sh('udevadm settle')
  const about = sh(`udevadm info -q all -p /sys/block/dm-${minor}`).split('\n')
  return {
    uuid: basename(readlinkSync(`/dev/disk/by-uuid/${uuid}`)),
    node: about.some((line) => line.startsWith('S: mapper/')),
    found: about.filter((line) => /^(E: ID_FS_|S: disk\/)/.test(line)),
  }
}

const hostNode = basename(readlinkSync('/dev/mapper/host'))
t.equal(basename(readlinkSync(`/dev/disk/by-uuid/${uuid}`)), hostNode, 'the host’s UUID')
const UNSEEN = { uuid: hostNode, node: true, found: [] }

const trigger = ({ minor }: MappedDevice, action: string): string =>
  sh(`udevadm trigger --settle --action=${action} /sys/block/dm-${minor}`)

await t.test('a device that udev looks into', async (t) => {
  const image = `${host.path}/seen`
  twinOfHost(image)
  const device = await mapFile(image)
  const { node, found } = seen(device)
  t.ok(node)
  t.match(found.join('\n'), `ID_FS_UUID=${uuid}`)
  t.match(found.join('\n'), `disk/by-uuid/${uuid}`, 'it has a claim to its host’s link')
  await device.unmap()
  clean(t)
})

await t.test('udevScan: false', async (t) => {
  const image = `${host.path}/unseen`
  twinOfHost(image)
  const device = await mapFile(image, { guard: 'none', udevScan: false })
  t.strictSame(seen(device), UNSEEN, 'mapped')
  for (const action of ['change', 'add']) {
    trigger(device, action)
    t.strictSame(seen(device), UNSEEN, `an event from outside: ${action}`)
  }
  sh(`head -c 1M /dev/urandom >>${image}; sync ${image}`)
  t.equal(await peer('extend', device.name), 'extended')
  t.equal(sh(`blockdev --getsize64 ${device.path}`), `${9 << 20}\n`)
  t.strictSame(seen(device), UNSEEN, 'extended by another process')
  trigger(device, 'change')
  t.strictSame(seen(device), UNSEEN, 'and another event')
  await device.unmap()
  sh('udevadm settle')
  t.equal(basename(readlinkSync(`/dev/disk/by-uuid/${uuid}`)), hostNode, 'unmapped')
  clean(t)
})

await t.test('wrapDevice with udevScan: false', async (t) => {
  const length = (8 << 20) / 512
  sh('dmsetup create disk', `0 ${length} linear 1:1 0`)
  sh(`mkfs.ext4 -qF -E nodiscard /dev/mapper/disk; udevadm settle`)
  const wrapped = await wrapDevice('/dev/mapper/disk', { name: 'wrap', udevScan: false })
  t.strictSame(seen(wrapped), UNSEEN, 'wrapped')
  sh(`dmsetup reload disk --table '0 ${2 * length} linear 1:1 0'; dmsetup resume disk`)
  await wrapped.extend()
  t.equal(wrapped.size, 16 << 20)
  t.strictSame(seen(wrapped), UNSEEN, 'extended')
  trigger(wrapped, 'change')
  t.strictSame(seen(wrapped), UNSEEN, 'an event from outside')
  await wrapped.unmap()

  const plain = await wrapDevice('/dev/mapper/disk', { name: 'wrap' })
  t.match(seen(plain).found.join('\n'), 'ID_FS_UUID', 'without it')
  sh(`dmsetup reload disk --table '0 ${3 * length} linear 1:1 0'; dmsetup resume disk`)
  await plain.extend()
  t.match(seen(plain).found.join('\n'), 'ID_FS_UUID', 'as it was, extended')
  await plain.unmap()
  sh('dmsetup remove --retry disk')
  clean(t)
})

// --- cookies ----------------------------------------------------------------------------------------

await t.test('the cookies of killed processes, and no others', async (t) => {
  const dead = await start(t, process.execPath, PEER, 'cookie')
  const live = await start(t, process.execPath, PEER, 'cookie')
  t.equal(leftCookies().length, 2)
  await kill(dead)
  t.equal(leftCookies().length, 2, 'a killed process cannot remove its own')
  sh('dmsetup udevcreatecookie')
  // Another program's set of two, by chance with such a key.
  sh(`perl -e 'defined semget(0x0d4d0001, 2, 01600) or die $!'`)
  t.strictSame(await listMappings(), [])
  t.equal(leftCookies().length, 3, 'the one of the dead is gone: listMappings')

  await kill(live)
  const device = await mapFile(file)
  t.equal(leftCookies().length, 2, 'and the other: mapFile')
  await device.unmap()
  sh(`dmsetup udevcomplete_all -y`)
  clean(t)
})

await t.test('processes that make cookies while others sweep', async (t) => {
  const makers = Promise.all([peer('cookies'), peer('cookies'), peer('cookies')])
  const done = makers.then(() => true)
  const notYet = async (): Promise<boolean> =>
    (await Promise.race([done, result(native.sweepCookies())])) !== true
  while (await notYet());
  t.strictSame(await makers, ['500', '500', '500'], 'none lost one that it had')
  clean(t)
})

await t.test('a worker thread that is ended takes its cookie along', async (t) => {
  const worker = new Worker(PEER, { argv: ['cookie'], stdout: true })
  await new Promise((resolve) => worker.stdout.once('data', resolve))
  t.equal(leftCookies().length, 1)
  await worker.terminate()
  clean(t)
})

await t.test('no semaphore is to be had', async (t) => {
  const limits = readFileSync('/proc/sys/kernel/sem', 'utf8')
  sh('echo "250 32000 32 0" >/proc/sys/kernel/sem')
  t.teardown(() => sh(`echo "${limits}" >/proc/sys/kernel/sem`))
  const device = await mapFile(file)
  sh(`head -c 512 ${device.path} | cmp -n 512 - ${file}`)
  await device.unmap()
  sh('udevadm settle')
  clean(t)
})

// --- whether udev is there --------------------------------------------------------------------------

/** Milliseconds for udev: who waits for one that is not there takes this long, and fails. */
const WAIT = 30_000

/** Maps and unmaps: whether nobody waited. */
async function unhurt(t: Test, who: string): Promise<void> {
  for (const [what, act] of [
    ['map', () => mapFile(file, { timeout: WAIT, name: 'x' })],
    ['unmap', async () => (await listMappings())[0]?.unmap({ timeout: WAIT })],
  ] as const) {
    const start = performance.now()
    await act()
    const took = performance.now() - start
    t.ok(took < WAIT / 3, `${who}: ${what} in ${took.toFixed()} ms`)
  }
}

const madeByUdev = async (): Promise<boolean> => {
  await using device = await mapFile(file)
  return lstatSync(device.path).isSymbolicLink()
}

/** An unprivileged user's socket, by this name, from a folder where it can be made. */
const bind = (name: string): string =>
  `use Socket; use File::Path; my $n = "${name}"; chdir "/tmp/nobody";
   File::Path::make_path($1) if $n =~ m{^([^\\0].*)/}s;
   socket(S, AF_UNIX, SOCK_SEQPACKET, 0); bind(S, sockaddr_un($n)) or die $!; listen(S, 5);
   $| = 1; print "bound\\n"; sleep`
const NOBODY = ['--reuid=65534', '--regid=65534', '--clear-groups']
const LINE = '0000000000000000: 00000002 00000000 00010000 0005 01 12345 /run/udev/control'
const FORGED: Record<string, string[]> = {
  'an abstract name': ['perl', '-e', bind('\\0/run/udev/control')],
  'an abstract name with a space': ['perl', '-e', bind('\\0 /run/udev/control')],
  'a folder with a space': ['perl', '-e', bind('x /run/udev/control')],
  'a line in an abstract name': ['perl', '-e', bind(`\\0x\\n${LINE}`)],
  'a line in folders': ['perl', '-e', bind(`y\\n${LINE}`)],
  'its own /run': [
    ...['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c'],
    'mount -t tmpfs none /run && exec perl -e "$0"',
    bind('/run/udev/control'),
  ],
}

await t.test('a killed udevd', async (t) => {
  t.ok(await madeByUdev(), 'udev makes the node')
  sh('kill -9 $(pidof systemd-udevd)')
  t.ok(lstatSync('/run/udev/control').isSocket(), 'its socket’s file stays')
  await unhurt(t, 'killed')
  clean(t)

  sh('mkdir -m 777 /tmp/nobody')
  for (const [name, command] of Object.entries(FORGED)) {
    const forger = await start(t, 'setpriv', ...NOBODY, ...command)
    t.match(readFileSync('/proc/net/unix', 'latin1'), '/run/udev/control', name)
    await unhurt(t, name)
    await kill(forger)
  }
  // Where /run is everybody's, as in this guest, or was for a moment.
  sh('mv /run/udev /run/udev.away; chmod 1777 /run')
  const forger = await start(t, 'setpriv', ...NOBODY, ...['perl', '-e', bind('/run/udev/control')])
  await unhurt(t, 'in its very place')
  await kill(forger)
  sh('rm -r /run/udev; mv /run/udev.away /run/udev')
  clean(t)

  sh('$(ls /usr/lib/systemd/systemd-udevd /lib/systemd/systemd-udevd | head -1) --daemon')
  t.ok(await madeByUdev(), 'and there again')
  clean(t)
})

host.remove()
