// Every cell of the matrix in test/matrix.ts, tried on a real kernel with real filesystems.
import { lstatSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { release } from 'node:os'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { mapFile, planFile, type DmloopCode, type MapOptions } from 'dmloop'
import { HOSTS, MATRIX, type Row } from '../matrix.js'
import { deviceNames, fileState, leftFiles, oneSegment, sh, sha256 } from './lab.js'

const AT = '/tmp/at'
const FILE = `${AT}/file`
const TOOLS = fileURLToPath(new URL('../../../test/tools', import.meta.url))
const DMLOOP = fileURLToPath(new URL('../../../dist/cli/dmloop.js', import.meta.url))

/** What only shows when something is done to the file, which a plan never does. */
const NOT_PLANNED: DmloopCode[] = ['DMLOOP_FILE_IN_USE']

const [major = 0, minor = 0] = release().split('.').map(Number)
const newer = major > 6 || (major === 6 && minor >= 12)

const VARIABLES = Object.entries({
  DISK: '/dev/mapper/matrix',
  AT,
  FILE,
  TOOLS,
  DMLOOP,
  NODE: process.execPath,
})

const run = (script: string): void =>
  void sh(`${VARIABLES.map(([name, value]) => `export ${name}='${value}'`).join('\n')}
${script}`)

function setUp({ host, make = 'head -c 64K /dev/urandom >$FILE' }: Row): void {
  sh(`mkdir -p ${AT}; dmsetup create matrix`, oneSegment())
  run(HOSTS[host])
  run(`${make}\nsync`)
}

function tearDown({ undo = '' }: Row): void {
  run(undo)
  run('for at in $AT /tmp/lower; do if mountpoint -q $at; then umount $at; fi; done')
  for (const name of deviceNames()) sh(`dmsetup remove --retry ${name}`)
}

/** Maps the file, and looks that the device shows and changes the file's own bytes. */
async function outcome(t: Test, options: MapOptions): Promise<string> {
  try {
    const device = await mapFile(FILE, options)
    const { path, size } = device
    const head = options.guard === 'swapfile' ? 1 << 20 : 0
    t.equal(await sha256(path, size), await sha256(FILE, size, head), 'the same bytes')
    if (options.readOnly !== true) {
      await using node = await open(path, 'r+')
      await node.write(Buffer.alloc(512, 'written through the device'), 0, 512, size - 512)
      await node.sync()
    }
    const after = await sha256(path, size)
    t.strictSame(await device.verify({ content: 'full' }), { ok: true, problems: [] })
    await device.unmap()
    t.equal(await sha256(FILE, size, head), after, 'what was written through the device')
    return 'mapped'
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  }
}

for (const row of MATRIX) {
  await t.test(row.file, async (t) => {
    t.teardown(() => {
      tearDown(row)
    })
    setUp(row)
    const regular = lstatSync(FILE).isFile()
    const devices = deviceNames()
    for (const [readOnly, usual] of [
      [false, row.writable],
      [true, row.readOnly],
    ] as const) {
      const expected = (newer ? row.newer : undefined) ?? usual
      const options = { ...row.options, readOnly }
      const before = regular && expected !== 'mapped' ? fileState(FILE) : ''
      t.equal(await outcome(t, options), expected, readOnly ? 'read-only' : 'writable')
      if (before !== '') t.equal(fileState(FILE), before, 'the file is as it was')
      t.strictSame(deviceNames(), devices, 'no device is left')
      t.strictSame(leftFiles(), [], 'no record or node is left')
      if (expected.startsWith('ERR_') || NOT_PLANNED.includes(expected as DmloopCode)) continue
      const [first] = (await planFile(FILE, options)).problems
      // See `Row.newer`.
      t.equal(first?.code ?? 'mapped', usual, 'the plan says the same, as far as it can')
    }
  })
}
