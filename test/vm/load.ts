// What is done to a file while its device is written.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import type { MappedDevice } from 'dmloop'
import { sh } from './lab.js'

/** Sectors that were written to a device (Documentation/block/stat.rst). */
const sectorsWritten = ({ major, minor }: MappedDevice): number =>
  Number(readFileSync(`/sys/dev/block/${major}:${minor}/stat`, 'utf8').trim().split(/\s+/)[6])

/** fio writes to the device, has begun to, and compares what it reads with what it has written. */
async function startLoad(device: MappedDevice): Promise<{ stop: () => Promise<string> }> {
  const before = sectorsWritten(device)
  const fio = spawn(
    'fio',
    [
      ...['--name=load', `--filename=${device.path}`, '--rw=randrw', '--bs=4k-64k', '--direct=1'],
      ...['--verify=crc32c', '--verify_fatal=1', '--ioengine=psync', '--time_based'],
      ...['--runtime=3600', '--disk_util=0', '--verify_state_save=0', '--minimal'],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  let said = ''
  fio.stderr.on('data', (data: Buffer) => (said += data.toString()))
  const ended = once(fio, 'exit')
  while (fio.exitCode === null && sectorsWritten(device) === before) await sleep(10)
  const stop = async (): Promise<string> => {
    fio.kill('SIGINT')
    await ended
    return said.replace(/^fio: terminating on signal 2\n/m, '')
  }
  return { stop }
}

/**
 * Runs a command again and again for so many seconds while fio writes to the device. Returns how often it was
 * done: 0 where each attempt failed.
 */
export async function underLoad(
  t: Test,
  device: MappedDevice,
  { what, command, seconds }: { what: string; command: string; seconds: number },
): Promise<number> {
  const load = await startLoad(device)
  const end = Date.now() + seconds * 1000
  let done = 0
  let refused = 0
  let reason = ''
  do {
    try {
      sh(command)
      done++
    } catch (error) {
      refused++
      reason = String(error).trim().split('\n').at(-1) ?? ''
    }
    // fio says what it has to say, and ends if it has failed.
    await sleep(20)
  } while (Date.now() < end)
  t.comment(`${what}: done ${done} times, refused ${refused} times. ${reason}`)
  t.equal(await load.stop(), '', `${what}: fio read what it wrote`)
  return done
}
