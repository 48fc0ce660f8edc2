// The images of a store as Android's logical partition metadata: another reader maps them the same way, and a store
// that has lost its own metadata has its images again.
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statfsSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import t, { type Test } from 'tap'
import { createImage, ImageStore, planFile } from 'dmloop'
import { encodeLpMetadata, LP_FILE_GEOMETRY, lpAreaSize } from '#lib/store/lp-metadata.js'
import { deviceNames, randomFile, sh, sha256 } from './lab.js'
import { HOST, METADATA, mount, reboot } from './store-host.js'

const MIB = 1 << 20
const SIZE = 4 * MIB
const OK = { ok: true, problems: [] }
const SUPER = '/dev/ram0p1'
const DISK = '/dev/ram0p2'

/** Bytes. */
const sizeOf = (device: string): number => Number(sh(`blockdev --getsize64 ${device}`))

// A disk with a GPT: make-dynpart-mappings finds partitions by their labels, as udev has them.
sh('sfdisk -q /dev/ram0', 'label: gpt\nsize=4MiB, name=super\nname=images\n')
sh(`mkdir -p ${HOST}; mkfs.ext4 -q ${DISK}`)
const LABELS = '/dev/disk/by-partlabel'
mkdirSync(LABELS, { recursive: true })
symlinkSync(SUPER, `${LABELS}/super`)
symlinkSync(DISK, `${LABELS}/images`)

await mount(DISK)
const source = '/tmp/source'
randomFile(source, SIZE)
const SUM = await sha256(source, SIZE)
const open = (): Promise<ImageStore> => ImageStore.open(`${HOST}/images`, { metadata: METADATA })
const store = await open()
await store.create('a', { from: source })
await store.create('b', { from: source, readOnly: true })
await store.create('c', { from: source, maxFileSize: 3 * MIB })
await store.create('d', { size: MIB })
await store.disable('d')
const IMAGES = await store.list()

/** The tables of all devices but the wrapper. */
function tables(): Record<string, string> {
  const found: Record<string, string> = {}
  for (const [, name = '', line = ''] of sh('dmsetup table').matchAll(/^([\w-]+): ?(.*)$/gm)) {
    if (name !== 'host') found[name] = `${found[name] ?? ''}${line.trim()}\n`
  }
  return found
}

/** A store in the same directory that knows nothing. */
async function emptyStore(): Promise<ImageStore> {
  sh(`rm -rf ${METADATA}`)
  return await open()
}

async function isWhole(t: Test, imported: ImageStore): Promise<void> {
  t.strictSame(await imported.list(), IMAGES)
  for (const { name } of IMAGES) t.strictSame(await imported.validate(name), OK, name)
  for (const name of ['a', 'b', 'c']) {
    await using device = await imported.map(name)
    t.equal(await sha256(device.path, SIZE), SUM, name)
    t.equal(device.readOnly, name === 'b')
  }
}

const EXPORT = '/tmp/super.img'
const FILE = '/tmp/lp_metadata'

await t.test('another reader maps the same tables', async (t) => {
  await store.exportLpMetadata(EXPORT, { super: { name: 'super', size: sizeOf(SUPER) } })
  t.equal(statSync(EXPORT).mode & 0o777, 0o600)
  sh(`dd if=${EXPORT} of=${SUPER} conv=fsync status=none`)
  reboot()
  t.strictSame((await store.mapAll()).problems, [])
  const { a, b, c, ...others } = tables()
  t.strictSame(others, {})
  t.equal(c?.split('\n').length, 3, 'a split image is in several pieces')
  reboot()
  const { stderr, status } = spawnSync('make-dynpart-mappings', [SUPER, '0'], { encoding: 'utf8' })
  t.equal(status, 0, stderr)
  const { d, ...made } = tables()
  t.strictSame(made, { a, b, c })
  t.match(d, /linear/, 'it maps what is disabled all the same')
  sh('dmsetup remove --retry a b c d')
  await mount(DISK)
})

await t.test('a store without its metadata has its images again', async (t) => {
  await store.exportLpMetadata(FILE)
  for (const from of [SUPER, EXPORT, FILE]) {
    const imported = await emptyStore()
    t.strictSame(await imported.list(), [])
    t.strictSame(await imported.importLpMetadata(from), IMAGES, from)
    await isWhole(t, imported)
    t.strictSame(await imported.importLpMetadata(from), IMAGES, 'a second time nothing is done')
    const again = '/tmp/again'
    await imported.exportLpMetadata(again)
    t.ok(readFileSync(again).equals(readFileSync(FILE)), 'and exports the same')
  }
  const parts = await emptyStore()
  const [first] = await parts.importLpMetadata(FILE, { partitions: true })
  t.equal(first?.partitions, true)
})

await t.test('what is damaged, or not so, makes no image', async (t) => {
  const whole = readFileSync(FILE)
  const imported = await emptyStore()
  const none = async (code: string, from = '/tmp/damaged'): Promise<void> => {
    await t.rejects(imported.importLpMetadata(from), { code }, code)
    t.strictSame(await imported.list(), [])
  }
  for (const at of [0, 9, 4096, 4096 + 12, 4096 + 60, 4096 + 140]) {
    const bytes = Buffer.from(whole)
    bytes[at] = (bytes[at] ?? 0) ^ 1
    writeFileSync('/tmp/damaged', bytes)
    await none('DMLOOP_BAD_IMAGE')
  }
  writeFileSync('/tmp/damaged', '')
  await none('DMLOOP_BAD_IMAGE')
  await none('ENOENT', '/tmp/nothing')
  await t.rejects(imported.importLpMetadata(FILE, { slot: 1 }), { code: 'ERR_OUT_OF_RANGE' })

  const images = `${HOST}/images`
  sh(`cd ${images}; chattr -i b.img; cp b.img new; mv b.img old; mv new b.img; sync`)
  await t.rejects(imported.importLpMetadata(FILE), {
    code: 'DMLOOP_FILE_CHANGED',
    file: `${images}/b.img`,
    offset: 0,
  })
  t.strictSame(await imported.list(), [])
  sh(`cd ${images}; mv old b.img`)
  await imported.importLpMetadata(FILE)
  await isWhole(t, imported)

  await imported.delete('b')
  await imported.create('b', { size: MIB })
  await t.rejects(imported.importLpMetadata(FILE), { code: 'DMLOOP_FILE_CHANGED' })
  await imported.delete('b')
  await t.rejects(imported.importLpMetadata(FILE), { code: 'ENOENT', path: `${images}/b.img` })
})

/** The metadata of one file, as another tool may have made it. */
async function describe(path: string, name: string): Promise<void> {
  // An extent is in whole blocks of the filesystem.
  const geometry = { ...LP_FILE_GEOMETRY, logicalBlockSize: statfsSync(path).bsize }
  const extents = (await planFile(path)).extents
  const bytes = encodeLpMetadata(
    {
      geometry,
      headerFlags: 0,
      blockDevices: [
        {
          name: 'images',
          slotSuffixed: false,
          size: sizeOf(DISK),
          firstLogicalSector: lpAreaSize(geometry) / 512,
          alignment: 0,
          alignmentOffset: 0,
        },
      ],
      groups: [{ name: 'default', slotSuffixed: false, maximumSize: 0 }],
      partitions: [
        {
          name,
          attributes: ['slot-suffixed'],
          group: 'default',
          extents: [...extents].map(({ physical, length }) => ({
            target: 'linear',
            sectors: length / 512,
            device: 0,
            start: physical / 512,
          })),
        },
      ],
    },
    'file',
  )
  writeFileSync('/tmp/other', bytes)
}

await t.test('a file that was never an image becomes one', async (t) => {
  const imported = await open()
  const path = `${HOST}/images/other_a.img`
  await createImage(path, { from: source })
  await describe(path, 'other')
  const writer = openSync(path, 'r+')
  await t.rejects(imported.importLpMetadata('/tmp/other'), { code: 'DMLOOP_FILE_IN_USE' })
  closeSync(writer)
  t.equal(statSync(path).size, SIZE, 'it is as it was')
  t.notMatch(sh(`lsattr ${path}`).split(' ')[0], /i/)
  const [made] = await imported.importLpMetadata('/tmp/other')
  t.match(made, { name: 'other_a', size: SIZE, files: [path] })
  t.strictSame(await imported.validate('other_a'), OK)
  {
    await using device = await imported.map('other_a')
    t.equal(await sha256(device.path, SIZE), SUM)
    const fd = openSync(device.path, 'r+')
    writeSync(fd, 'x', 0)
    fsyncSync(fd)
    closeSync(fd)
  }
  await imported.delete('other_a')
})

await t.test('what cannot be exported', async (t) => {
  const images = await open()
  await images.create('a.b', { size: MIB })
  const refused = { code: 'DMLOOP_NOT_REPRESENTABLE', message: /a\.b/ }
  await t.rejects(images.exportLpMetadata('/tmp/none'), refused)
  t.notOk(readdirSync('/tmp').includes('none'))
  await images.delete('a.b')
  for (const path of [SUPER, '/dev/null', '/tmp']) {
    await t.rejects(images.exportLpMetadata(path), { code: 'DMLOOP_NOT_REGULAR_FILE' }, path)
  }
  const small = { super: { name: 'super', size: MIB / 16 } }
  await t.rejects(images.exportLpMetadata('/tmp/none', small), { code: 'DMLOOP_NOT_REPRESENTABLE' })
  for (const options of [{ super: {} }, { super: { name: 'super' } }, { super: 1 }, { other: 1 }]) {
    // @ts-expect-error It is wrong.
    await t.rejects(images.exportLpMetadata('/tmp/none', options), /must be|unknown/i)
  }
  await images.removeAll()
  await t.rejects(images.exportLpMetadata('/tmp/none'), { code: 'DMLOOP_NOT_REPRESENTABLE' })
})

t.strictSame(deviceNames(), ['host'])
t.strictSame(readdirSync(`${HOST}/images`), [])
