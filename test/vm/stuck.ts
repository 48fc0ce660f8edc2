// node stuck.js FILESYSTEM: a filesystem that is frozen keeps calls for as long as it is. Whoever waits is
// told in time, nobody else waits, and afterwards everything is undone. stuck.js map FILE ends with a call
// under way.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { mapFile, openMapping, type DmloopError } from 'dmloop'
import { opened } from '../open-files.js'
import { deviceNames, makeHost, oneSegment, randomFile, sh } from './lab.js'

const [role = 'ext4', argument = ''] = process.argv.slice(2)

/**
 * Milliseconds. Whoever waits for the calls here waits for ever: the disk comes back after the check. A slow
 * machine takes a second or two over the rest.
 */
const AT_ONCE = 5000

if (role === 'map') {
  void mapFile(argument)
  setTimeout(() => process.exit(3), 500)
} else {
  await testOn(role)
}

interface Told {
  error: unknown
  /** Milliseconds. */
  after: number
}

/** What a promise rejects with, and when. */
async function told(promise: Promise<unknown>): Promise<Told> {
  const start = performance.now()
  const error = await promise.then(
    () => undefined,
    (error: unknown) => error,
  )
  return { error, after: performance.now() - start }
}

/** A call of Node's thread pool: it waits for ever if the stuck ones have all its threads. */
function unrelatedRead(): Promise<string> {
  const late = sleep(AT_ONCE, 'kept waiting', { ref: false })
  return Promise.race([readFile('/proc/uptime').then(() => 'read'), late])
}

async function testOn(filesystem: string): Promise<void> {
  const rejections: unknown[] = []
  process.on('unhandledRejection', (error) => rejections.push(error))
  const host = makeHost(filesystem, oneSegment(), { name: 'host' })
  const files = Array.from({ length: 8 }, (_, index) => `${host.path}/${index}`)
  for (const file of files) randomFile(file, 256 << 10)
  sh('sync')
  const freeze = (): string => sh(`fsfreeze -f ${host.path}`)
  const thaw = (): string => sh(`fsfreeze -u ${host.path}`)

  /** Files of the host, and all that a mapping may leave, as they are just now. */
  const state = (): string =>
    sh(`cd ${host.path}; sha256sum [0-9]*; stat -c '%s %Y %a' [0-9]*; lsattr; getfattr -d -m - *
        dmsetup ls; dmsetup udevcookies; losetup -l; ls -A /dev/mapper /run/dmloop; cat /proc/locks`) +
    openPaths().join()
  /** What this process has open of the host and of records, and how much in all. */
  const openPaths = (): unknown[] => {
    const paths = opened()
    const ours = paths.filter((path) => /^\/(tmp\/host|run\/dmloop)\//.test(path))
    return [...ours, paths.length]
  }
  /** The state, as soon as it is the one expected, or after a while. */
  const settled = async (expected: string): Promise<string> => {
    for (let i = 0; i < 50; i++) {
      const now = state()
      if (now === expected) return now
      await sleep(100)
    }
    return state()
  }
  // The first mapping makes the folder of records, among other things.
  await (await mapFile(files[0] as string)).unmap()
  const before = state()

  await t.test('mapFile, told in time, with everybody else going on', async (t) => {
    freeze()
    const calls = files.map((file, index) =>
      told(mapFile(file, index < 4 ? { timeout: 500 } : { signal: AbortSignal.timeout(500) })),
    )
    await sleep(100)
    t.equal(await unrelatedRead(), 'read', 'an unrelated fs.readFile does not wait for them')
    for (const [index, { error, after }] of (await Promise.all(calls)).entries()) {
      if (index < 4) t.match(error, { code: 'DMLOOP_TIMEOUT', file: files[index] })
      else t.match(error, { name: 'TimeoutError' })
      const why = (error as DmloopError).message
      t.ok(after > 450 && after < AT_ONCE, `after ${after.toFixed(0)} ms: ${why}`)
    }
    const again = await told(mapFile(files[0] as string, { name: 'again', timeout: 500 }))
    t.match(again.error, { code: 'DMLOOP_TIMEOUT' }, 'a file that is not done with is claimed')
    thaw()
    t.equal(await settled(before), before, 'nothing is left')
    for (const file of files) await (await mapFile(file)).unmap()
    t.equal(state(), before, 'and the files map')
  })

  await t.test('unmap finishes when it can', async (t) => {
    const devices = []
    for (const file of files.slice(0, 3)) devices.push(await mapFile(file))
    freeze()
    const calls = devices.map((device, index) =>
      told(device.unmap(index < 2 ? { timeout: 500 } : { signal: AbortSignal.timeout(500) })),
    )
    for (const [index, { error, after }] of (await Promise.all(calls)).entries()) {
      t.match(error, index < 2 ? { code: 'DMLOOP_TIMEOUT' } : { name: 'TimeoutError' })
      t.ok(after < AT_ONCE, `after ${after.toFixed(0)} ms: ${(error as Error).message}`)
    }
    const second = await told((devices[0] as (typeof devices)[0]).unmap({ timeout: 500 }))
    t.match(second.error, { code: 'DMLOOP_TIMEOUT' }, 'a second call is told as well')
    thaw()
    t.equal(await settled(before), before, 'nothing is left')
    for (const device of devices) await device.unmap()
    t.equal(state(), before, 'and nothing is left to do')
  })

  await t.test('a mapping that nobody waited for is taken back', async (t) => {
    const large = `${host.path}/large`
    randomFile(large, 16 << 20)
    const expected = state()
    // The last step of the comparison waits for the host's device: with it the mapping is complete.
    let steps = 0
    const onProgress = (): void => {
      if (++steps === 1) sh('dmsetup suspend --nolockfs --noflush host')
    }
    const { error } = await told(mapFile(large, { verify: 'full', onProgress, timeout: 500 }))
    t.match(error, { code: 'DMLOOP_TIMEOUT', message: /pread did not return/ })
    t.strictSame(deviceNames(), ['host', 'large'], 'it was made')
    sh('dmsetup resume host')
    t.equal(await settled(expected), expected, 'nothing is left')
    sh(`rm ${large}`)
  })

  await t.test('a slow disk is not a dead one', async (t) => {
    sh('dmsetup create slow', `0 ${32 << 11} delay 1:1 0 100 1:1 0 0\n`)
    sh('mkfs.ext4 -q /dev/mapper/slow; mkdir -p /tmp/slow; mount /dev/mapper/slow /tmp/slow')
    randomFile('/tmp/slow/image', 16 << 20)
    sh('sync')
    const expected = state()
    const options = { backend: 'loop', verify: 'full' } as const
    const start = performance.now()
    const device = await mapFile('/tmp/slow/image', { ...options, timeout: 500 })
    const took = performance.now() - start
    t.ok(took > 2000, `it took ${took.toFixed(0)} ms, with a timeout of 500`)
    await device.unmap()
    const signal = AbortSignal.timeout(500)
    const { error, after } = await told(mapFile('/tmp/slow/image', { ...options, signal }))
    t.match(error, { name: 'TimeoutError' }, `an abort, after ${after.toFixed(0)} ms`)
    t.equal(state(), expected, 'which is complete')
    sh('umount /tmp/slow; dmsetup remove --retry slow')
  })

  await t.test('process.exit() does not wait for the kernel', async (t) => {
    freeze()
    const child = spawn(process.execPath, [process.argv[1] ?? '', 'map', files[0] as string], {
      stdio: 'ignore',
    })
    const exited = once(child, 'exit') as Promise<[number]>
    // Nothing ends a thread that waits so (TASK_UNINTERRUPTIBLE), and the kernel tells of the end of a process
    // when all of its threads have ended; its first thread is gone at once, though.
    const first = (): string => sh(`ps -o stat= -p ${child.pid ?? 0} || true`).trim()
    for (let i = 0; i < 100 && !first().startsWith('Z'); i++) await sleep(100)
    t.match(first(), /^Z/)
    thaw()
    t.equal((await exited)[0], 3)
    t.match(sh(`getfattr -m - ${files[0] ?? ''}`), /dmloop/, 'the call was made all the same')
    await (await mapFile(files[0] as string)).unmap()
    t.equal(await settled(before), before, 'the next mapping clears up')
  })

  if (filesystem === 'ext4') {
    await t.test('the server of another filesystem is gone', async (t) => {
      const file = files[0] as string
      const device = await mapFile(file)
      const server = spawn(process.execPath, ['test/tools/serve-9p.mjs', '/tmp/9p'], {
        stdio: 'ignore',
      })
      sh(`while ! [ -e /tmp/9p ]; do sleep 0.1; done; mkdir -p /tmp/remote
        mount -i -t 9p -o trans=unix,version=9p2000.L /tmp/9p /tmp/remote`)
      const reader = spawn('sh', ['-c', 'exec 3</tmp/remote/file; echo open; exec sleep 1000'], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      await once(reader.stdout, 'data')
      sh(`umount ${host.path}`)
      server.kill('SIGSTOP')
      const { error } = await told(device.unmap({ timeout: 1000 }))
      t.match(error, { code: 'DMLOOP_FILE_UNREACHABLE' }, 'the file is looked for past it')
      t.strictSame(deviceNames(), ['host'], 'and the device is gone')
      server.kill('SIGCONT')
      reader.kill('SIGKILL')
      await once(reader, 'exit')
      sh(`umount /tmp/remote; mount /dev/mapper/host ${host.path}`)
      server.kill('SIGKILL')
      await device.unmap()
      t.equal(await settled(before), before, 'nothing is left')
    })

    await t.test('a file without a handle is searched for on a dead disk', async (t) => {
      const vfat = makeHost('vfat', oneSegment(1), { name: 'vfat' })
      // More than the kernel reads with the root directory.
      sh(`mkdir ${vfat.path}/many; cd ${vfat.path}/many
        for i in $(seq 1 600); do : >a-rather-long-name-of-a-file-$i; done`)
      randomFile(`${vfat.path}/image`, 256 << 10)
      const device = await mapFile(`${vfat.path}/image`, { guard: 'none', name: 'image' })
      sh(`rm -f /run/dmloop/*; umount ${vfat.path}; mount /dev/mapper/vfat ${vfat.path}
        dmsetup suspend --nolockfs --noflush vfat`)
      const calls = Array.from({ length: 4 }, () => told(openMapping('image')))
      for (const { error } of await Promise.all(calls)) t.match(error, { code: 'DMLOOP_TIMEOUT' })
      t.equal(await unrelatedRead(), 'read', 'an unrelated fs.readFile does not wait for them')
      sh('dmsetup resume vfat')
      await (await openMapping('image')).unmap()
      await device.unmap()
      vfat.remove()
      t.equal(await settled(before), before, 'nothing is left')
    })
  }

  t.strictSame(rejections, [], 'no rejection was left to nobody')
  host.remove()
}
