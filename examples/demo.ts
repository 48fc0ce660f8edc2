// npm run demo: an ext4 image becomes a block device, is mounted, written to and unmapped, and the
// file holds what was written. Where that cannot be done on this machine, it is done in a guest kernel.
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  closeSync,
  createReadStream,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { styleText } from 'node:util'
import { mapFile, planFile, type Plan } from 'dmloop'
import { runInGuest } from '../vm/guest.js'
import { GUEST_DEFAULTS } from '../vm/kernel.js'

const MEBIBYTE = 1 << 20
const IMAGE_SIZE = 48 * MEBIBYTE
const PIECES = 4

const colours = process.stdout.isTTY || process.env.FORCE_COLOR !== undefined
type Style = Parameters<typeof styleText>[0]
const paint = (style: Style, text: string): string => (colours ? styleText(style, text) : text)

let steps = 0
const step = (title: string): void => {
  console.log(`\n${paint('cyan', `${++steps}.`)} ${paint('bold', title)}`)
}
const show = (text: string): void => {
  console.log(text.trimEnd().replace(/^/gm, '   '))
}
const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
/** Runs a command and shows it with what it prints. */
const showRun = (command: string, ...args: string[]): void => {
  show(paint('dim', `$ ${[command, ...args].join(' ')}`))
  show(run(command, ...args))
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) hash.update(chunk)
  return hash.digest('hex')
}

/** Shows that two things are the same, or ends the demo. */
function same(what: string, left: string, right: string): void {
  if (left !== right) throw new Error(`${what}: ${left} is not ${right}`)
  show(`${paint('green', '✓')} ${what}: ${left.slice(0, 16)}… = ${right.slice(0, 16)}…`)
}

/**
 * An ext4 image with files in it. mkfs leaves ranges of it unwritten, which would read as whatever the
 * disk held before: in a copy that is written out, every block is the file's own. It is written from
 * the end, so that it lies in several pieces, as a file that has grown does.
 */
function makeImage(directory: string): string {
  const content = join(directory, 'content')
  mkdirSync(content)
  writeFileSync(join(content, 'hello.txt'), 'A file within an image.\n')
  writeFileSync(join(content, 'random.bin'), randomBytes(3 * MEBIBYTE))
  const draft = join(directory, 'draft')
  run('mkfs.ext4', '-q', '-d', content, draft, `${IMAGE_SIZE / MEBIBYTE}M`)

  const bytes = readFileSync(draft)
  const image = join(directory, 'disk.img')
  const file = openSync(image, 'w')
  const size = IMAGE_SIZE / PIECES
  for (let piece = PIECES - 1; piece >= 0; piece--) {
    writeSync(file, bytes, piece * size, size, piece * size)
    fsyncSync(file)
  }
  closeSync(file)
  return image
}

function showPlan(plan: Plan): void {
  show(`${plan.extents.length} extents on ${plan.files[0]?.filesystem} (bytes):`)
  for (const { logical, physical, length } of plan.extents) {
    show(`  ${String(logical).padStart(9)} → ${String(physical).padStart(9)}  ${length}`)
  }
  show('the device-mapper table (512-byte sectors):')
  show(plan.toTable().replace(/^/gm, '  '))
}

async function demonstrate(directory: string): Promise<void> {
  step('An image file')
  const image = makeImage(directory)
  showRun('ls', '-l', image)

  step('Where it is stored: planFile')
  showPlan(await planFile(image))

  step('A block device over them: mapFile')
  const device = await mapFile(image, { name: `demo-${process.pid}` })
  const mountPoint = join(directory, 'mounted')
  mkdirSync(mountPoint)
  try {
    show(`${device.path} is ${device.major}:${device.minor}, ${device.size / MEBIBYTE} MiB`)
    showRun('dmsetup', 'table', device.name)
    same(
      'SHA-256 through the device and through the file',
      await sha256(device.path),
      await sha256(image),
    )

    step('Mounted, read and written through the device')
    run('mount', device.path, mountPoint)
    try {
      showRun('cat', join(mountPoint, 'hello.txt'))
      same(
        'random.bin as it was put in',
        await sha256(join(mountPoint, 'random.bin')),
        await sha256(join(directory, 'content', 'random.bin')),
      )
      writeFileSync(join(mountPoint, 'written.txt'), 'Written through the device.\n')
    } finally {
      run('umount', mountPoint)
    }
    const { ok } = await device.verify()
    show(`${ok ? paint('green', '✓') : '✗'} verify(): the device still maps the file’s own blocks`)
    const written = await sha256(device.path)

    step('Unmapped: the file holds what was written')
    await device.unmap()
    same('SHA-256 of the device before, of the file now', written, await sha256(image))
    showRun('debugfs', '-R', 'cat /written.txt', image)
  } finally {
    // Does nothing when it is unmapped already.
    await device.unmap()
  }
}

/** In the guest: an ext4 on a 1:1 dm-linear over a ram disk, which stores the image. */
function makeHost(): string {
  const mountPoint = '/tmp/host'
  const sectors = run('blockdev', '--getsz', '/dev/ram0').trim()
  run('dmsetup', 'create', 'host', '--table', `0 ${sectors} linear /dev/ram0 0`)
  run('mkfs.ext4', '-q', '/dev/mapper/host')
  mkdirSync(mountPoint)
  run('mount', '/dev/mapper/host', mountPoint)
  return mountPoint
}

/** Why this machine cannot map a file in a directory, if it cannot. */
async function obstacle(directory: string): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'this needs root'
  const probe = join(directory, 'probe')
  writeFileSync(probe, Buffer.alloc(MEBIBYTE))
  run('sync', probe)
  return (await planFile(probe)).problems[0]?.message
}

if (process.env.DMLOOP_GUEST !== undefined) {
  await demonstrate(makeHost())
} else {
  const directory = mkdtempSync(join(tmpdir(), 'dmloop-demo-'))
  try {
    const why = await obstacle(directory)
    if (why === undefined) {
      await demonstrate(directory)
    } else {
      console.log(`Not on this machine itself: ${why}`)
      console.log('So this runs in a throwaway guest kernel, on a ram disk.')
      const demo = fileURLToPath(import.meta.url)
      process.exitCode = await runInGuest([process.execPath, demo], GUEST_DEFAULTS)
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
if (process.exitCode === undefined)
  console.log(`\n${paint('green', 'Done.')} Nothing is left behind.`)
