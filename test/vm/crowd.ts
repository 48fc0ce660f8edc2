// Eight processes map and unmap 64 files at random, through both backends, for a minute: nobody fails,
// and nothing leaks. crowd.js member FILE ... is one of them.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import t from 'tap'
import { mapFile, openMapping, type MappedDevice } from 'dmloop'
import {
  below,
  deviceNames,
  fragmentedFile,
  leftCookies,
  leftFiles,
  makeHost,
  oneSegment,
  randomNumbers,
  scaled,
  sh,
  sha256,
} from './lab.js'

const PROCESSES = 8
const FILES_EACH = 8
const SECONDS = scaled(30)
const BYTES = 64 << 10

async function member(files: readonly string[]): Promise<void> {
  const random = randomNumbers(process.pid)
  const descriptors = (): number => readdirSync('/proc/self/fd').length
  const mapped = new Map<string, MappedDevice>()
  const sums = new Map<string, string>()
  for (const file of files) sums.set(file, await sha256(file, BYTES))
  const change = async (file: string): Promise<void> => {
    const device = mapped.get(file)
    if (device) {
      mapped.delete(file)
      // As often as not by way of an object of somebody else's.
      await (random() < 0.5 ? device : await openMapping(file)).unmap()
      return
    }
    const backend = random() < 0.5 ? 'linear' : 'loop'
    const made = await mapFile(file, { backend, timeout: 60_000 })
    mapped.set(file, made)
    if ((await sha256(made.path, BYTES)) !== sums.get(file)) throw new Error(`${file} differs`)
  }
  const before = descriptors()
  const end = Date.now() + SECONDS * 1000
  let changes = 0
  // Two at a time, on files of their own.
  const work = async (own: readonly string[]): Promise<void> => {
    for (; Date.now() < end; changes++) await change(own[below(random, own.length)] as string)
  }
  const half = files.length / 2
  await Promise.all([work(files.slice(0, half)), work(files.slice(half))])
  for (const device of mapped.values()) await device.unmap()
  if (descriptors() !== before) throw new Error(`${descriptors() - before} descriptors leak`)
  console.log(changes)
}

async function crowd(): Promise<void> {
  const host = makeHost('ext4', oneSegment(), { name: 'host' })
  const files = Array.from({ length: PROCESSES * FILES_EACH }, (_, index) => {
    const file = `${host.path}/${index}`
    fragmentedFile(file, BYTES, 4, index)
    return file
  })
  const cookies = leftCookies()
  const all = await Promise.all(
    Array.from({ length: PROCESSES }, async (_, index) => {
      const own = files.slice(index * FILES_EACH, (index + 1) * FILES_EACH)
      const [node, program] = [process.execPath, process.argv[1] ?? '']
      const one = spawn(node, [program, 'member', ...own], { stdio: ['ignore', 'pipe', 'pipe'] })
      let [said, complaint] = ['', '']
      one.stdout.on('data', (data: Buffer) => (said += data.toString()))
      one.stderr.on('data', (data: Buffer) => (complaint += data.toString()))
      const [status] = (await once(one, 'close')) as [number]
      t.equal(complaint, '', `process ${index}`)
      t.equal(status, 0)
      return Number(said)
    }),
  )
  const sum = all.reduce((total, changes) => total + changes, 0)
  t.ok(sum > scaled(50), `${sum} mappings made and unmade`)
  t.strictSame(deviceNames(), [host.name], 'no device is left')
  t.equal(sh('losetup -l --noheadings'), '', 'nor a loop device')
  t.strictSame(leftFiles(), [], 'nor a node or record')
  t.strictSame(leftCookies(), cookies, 'nor a cookie')
  t.notMatch(sh(`lsattr ${host.path}`), /^-+i/m, 'nor a guard')
  host.remove()
}

const [role, ...files] = process.argv.slice(2)
if (role === 'member') await member(files)
else await crowd()
