// The script that exportBoot writes, run after a reboot: it makes the devices that mapAll makes, and the library adopts
// them. test/boot has the same in a Debian that boots.
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeSync,
} from 'node:fs'
import t from 'tap'
import { ImageStore, openMapping } from 'dmloop'
import { deviceNames, randomFile, sh, sha256 } from './lab.js'
import { HOST, METADATA, mount, reboot } from './store-host.js'

const MIB = 1 << 20
const SIZE = 4 * MIB
const SCRIPT = '/tmp/root/etc/dmloop/boot/map'
const OK = { ok: true, problems: [] }

sh('mkfs.ext4 -q /dev/ram0')
mkdirSync(HOST)
await mount()

const store = await ImageStore.open(`${HOST}/images`, { metadata: METADATA })
const source = '/tmp/source'
randomFile(source, SIZE)
const SUM = await sha256(source, SIZE)
randomFile('/tmp/disk', SIZE)
sh('sfdisk -q /tmp/disk', 'label: gpt\nfirst-lba: 34\nstart=64, size=128\nstart=256, size=128\n')

/** The tables of all devices, whose own numbers are in no order. */
const tablesNow = (): string => sh('dmsetup table | sort').replace(/\b25[34]:\d+/g, 'mapper')

const exportBoot = (): Promise<string[]> => store.exportBoot('systemd', { root: '/tmp/root' })

await t.test('by the script', async (t) => {
  await store.create('a', { from: source })
  await store.create('parts', { from: source, maxFileSize: 3 * MIB, readOnly: true })
  await store.create('disk', { from: '/tmp/disk', partitions: true })
  await store.create('off', { size: MIB })
  await store.disable('off')
  const files = await exportBoot()
  t.ok(files.includes(SCRIPT))
  t.strictSame(deviceNames(), ['host'], 'nothing stays mapped for it')
  reboot()
  await store.mapAll()
  const tables = tablesNow()
  reboot()
  sh(SCRIPT)
  t.equal(tablesNow(), tables, 'the same devices')
  t.equal(await sha256('/dev/mapper/a', SIZE), SUM)
  t.equal(await sha256('/dev/mapper/parts', SIZE), SUM)
  t.equal(sh('blockdev --getro /dev/mapper/parts').trim(), '1')
  sh(SCRIPT)
  t.equal(tablesNow(), tables, 'a second run changes nothing')
  t.strictSame((await store.mapAll()).problems, [])

  await mount()
  for (const name of ['a', 'parts', 'disk']) t.strictSame(await store.validate(name), OK, name)
  const device = await openMapping('a')
  t.strictSame(device.files, [`${HOST}/images/a.img`])
  t.strictSame(await device.verify({ content: 'full' }), OK)
  readFileSync(`${HOST}/images/a.img`)
  const opened = openSync(device.path, 'r+')
  writeSync(opened, Buffer.alloc(4096, 7), 0, 4096, 0)
  fsyncSync(opened)
  closeSync(opened)
  for (const name of ['a', 'parts', 'disk']) await store.unmap(name)
  t.equal(readFileSync(`${HOST}/images/a.img`)[0], 7)
  t.strictSame(deviceNames(), ['host'])
})

await t.test('images that were replaced, deleted and resized since', async (t) => {
  await store.create('late', { from: source })
  await exportBoot()
  await store.delete('late')
  await store.resize('parts', SIZE + MIB)
  sh(`cd ${HOST}/images; chattr -i a.img; cp a.img new; mv new a.img; sync
    dd if=/dev/zero of=zeros bs=1M status=none 2>/dev/null || true; sync; rm zeros; sync`)
  reboot()
  sh(SCRIPT)
  t.strictSame(deviceNames(), ['disk', 'disk1', 'disk2', 'host'], 'they are left out')
  await exportBoot()
  sh(SCRIPT)
  t.strictSame(deviceNames(), ['disk', 'disk1', 'disk2', 'host', 'parts'])
  t.equal(Number(sh('blockdev --getsize64 /dev/mapper/parts')), SIZE + MIB)
  await mount()
})

await t.test('fewer images', async (t) => {
  await store.unmap('parts')
  await store.unmap('disk')
  sh(`rm -f ${HOST}/images/a.img`)
  await store.removeAll()
  await exportBoot()
  t.strictSame(readdirSync('/tmp/root/etc/dmloop/boot').sort(), ['map', 'plan'])
  await t.rejects(store.exportBoot('grub' as 'systemd'), { code: 'ERR_INVALID_ARG_VALUE' })
  reboot()
  sh(SCRIPT)
  t.strictSame(deviceNames(), [])
})
