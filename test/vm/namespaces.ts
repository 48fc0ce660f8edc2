// Eight processes in four mount namespaces, two of which have a /run of their own, map, write to and unmap
// the same files, rename the directories above them and read them through mmap, for half a minute, or as
// long as DMLOOP_SCALE makes that. At the end every file holds what was last written to it, and nothing is
// held or left. namespaces.js member SEED is one of them.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { open, rename } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { listMappings, mapFile, openMapping, type DmloopError, type MappedDevice } from 'dmloop'
import {
  below,
  deviceNames,
  leftFiles,
  makeHost,
  oneSegment,
  randomFile,
  randomNumbers,
  scaled,
  sh,
} from './lab.js'

const HOST = '/tmp/host'
/** What each file must hold, by the name that it has in its directory; /tmp is the same for all. */
const TRUTH = '/tmp/truth'
const HOLD_PAGES = fileURLToPath(new URL('../../../build/Release/hold-pages', import.meta.url))
const FILES = 6
const SECONDS = scaled(30, 20)
const BYTES = 64 << 10
const BLOCK = 4096

/** The directories change their names all the time: a file is found by its own. */
function find(name: string): string | undefined {
  return readdirSync(HOST)
    .filter((folder) => folder.startsWith('d'))
    .map((folder) => `${HOST}/${folder}/${name}`)
    .find((path) => existsSync(path))
}

/** What another process may be the reason of; anything else is a fault. */
const EXPECTED = [
  'DMLOOP_ALREADY_MAPPED',
  'DMLOOP_TIMEOUT',
  'DMLOOP_STILL_OPEN',
  'DMLOOP_STALE_CACHE',
  'DMLOOP_NOT_MAPPED',
  'DMLOOP_FILE_CHANGED',
  'ENOENT',
  // Its node is removed after the device.
  'ENXIO',
  'EEXIST',
  'ENOTEMPTY',
]

async function tolerant<T>(call: () => Promise<T>): Promise<T | undefined> {
  try {
    return await call()
  } catch (error) {
    if (EXPECTED.includes((error as DmloopError).code)) return undefined
    throw error
  }
}

/** Writes a block to the device, and notes it, while it is open: nobody unmaps it meanwhile. */
async function write(device: MappedDevice, name: string, random: () => number): Promise<void> {
  // Somebody else may have unmapped it by now, and a third have mapped the file again, and write too.
  const out = await tolerant(() => open(device.path, 'r+'))
  if (!out) return
  const lock = `${TRUTH}/${name}.lock`
  while (!(await tolerant(() => open(lock, 'wx').then((file) => file.close().then(() => true))))) {
    await sleep(5)
  }
  const at = below(random, BYTES / BLOCK) * BLOCK
  const data = Buffer.alloc(BLOCK, 1 + below(random, 255))
  await out.write(data, 0, BLOCK, at)
  await out.sync()
  const truth = openSync(`${TRUTH}/${name}`, 'r+')
  writeSync(truth, data, 0, BLOCK, at)
  closeSync(truth)
  rmSync(lock)
  await out.close()
}

async function unmap(device: MappedDevice): Promise<void> {
  // A reader that keeps old pages goes after a moment.
  while ((await tolerant(() => device.unmap({ timeout: 500 }).then(() => true))) !== true) {
    await sleep(50)
  }
}

async function member(seed: number): Promise<void> {
  const random = randomNumbers(seed)
  const end = Date.now() + SECONDS * 1000
  let mappings = 0
  while (Date.now() < end) {
    const name = `f${below(random, FILES)}`
    const file = find(name)
    if (file === undefined) continue
    const what = random()
    if (what < 0.5) {
      const device = await tolerant(() => mapFile(file, { timeout: 1000 }))
      if (!device) continue
      mappings++
      await write(device, name, random)
      if (random() < 0.3) await sleep(100)
      await unmap(device)
    } else if (what < 0.65) {
      // Somebody else's, who may be at it.
      const device = await tolerant(() => openMapping(file))
      if (device) await tolerant(() => device.unmap({ timeout: 100 }))
    } else if (what < 0.8) {
      const folder = file.slice(0, file.lastIndexOf('/'))
      const other = `${HOST}/d${below(random, 1000)}`
      await tolerant(() => rename(folder, other))
    } else {
      const reader = spawn(HOLD_PAGES, ['shared', file], { stdio: ['pipe', 'ignore', 'ignore'] })
      // Where the path has changed meanwhile, it ends at once.
      const ended = once(reader, 'exit')
      await sleep(100)
      reader.kill('SIGKILL')
      await ended
    }
  }
  console.log(mappings)
}

/** Two members in a mount namespace of their own. */
async function pair(seed: number, commands: string): Promise<{ status: number; output: string }> {
  const start = (which: number): string =>
    `"${process.execPath}" "${process.argv[1] ?? ''}" member ${which}`
  const script = `${commands}; ${start(seed)} & first=$!; ${start(seed + 1)}; second=$?; wait $first && exit $second`
  const child = spawn('unshare', ['-m', 'sh', '-c', script], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => (output += data.toString()))
  }
  const [status] = (await once(child, 'close')) as [number]
  return { status, output }
}

async function all(): Promise<void> {
  const host = makeHost('ext4', oneSegment(), { name: 'host' })
  sh(`mkdir -p ${TRUTH} /run/dmloop`)
  for (let index = 0; index < FILES; index++) {
    sh(`mkdir ${HOST}/d${2000 + index}`)
    const file = `${HOST}/d${2000 + index}/f${index}`
    randomFile(file, BYTES)
    sh(`chmod 644 ${file}`)
    writeFileSync(`${TRUTH}/f${index}`, readFileSync(file))
  }
  const OWN_RUN = 'mount -t tmpfs none /run'
  const pairs = await Promise.all([pair(1, ':'), pair(3, OWN_RUN), pair(5, ':'), pair(7, OWN_RUN)])
  let mappings = 0
  for (const { status, output } of pairs) {
    t.equal(status, 0, 'two members have come to their end')
    if (status !== 0) console.error(output)
    for (const [count] of output.matchAll(/^\d+$/gm)) mappings += Number(count)
  }
  t.ok(mappings > 20, `${mappings} mappings made and unmade`)
  for (const device of await listMappings()) await device.unmap()
  for (let index = 0; index < FILES; index++) {
    const name = `f${index}`
    const file = find(name) ?? ''
    const truth = readFileSync(`${TRUTH}/${name}`)
    const direct = sh(
      `dd if=${file} iflag=direct bs=64K status=none | cmp - ${TRUTH}/${name} || true`,
    )
    t.ok(readFileSync(file).equals(truth), `${name} reads what was last written`)
    t.equal(direct, '', `${name} has it on the disk`)
    t.notMatch(sh(`lsattr ${file}`), /^-+i/, 'and is not held')
    t.equal(sh(`getfattr -d -m - ${file}`), '')
  }
  t.strictSame(deviceNames(), ['host'])
  t.strictSame(leftFiles(), [])
  host.remove()
}

const [role, seed] = process.argv.slice(2)
if (role === 'member') {
  // tap would keep it to itself.
  await member(Number(seed)).catch((error: unknown) => {
    console.error(error)
    process.exitCode = 1
  })
} else {
  await all()
}
