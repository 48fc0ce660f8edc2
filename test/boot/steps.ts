// What a test does in the booted system: steps.js STEP [ARGUMENT ...]. The first failure ends it.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { appendFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { ImageStore, openMapping, wrapDevice, type ExportBootOptions } from '#lib/index.js'
import { KINDS } from './kinds.js'

const SHARE = '/mnt/share'
const MIB = 2 ** 20
const SIZE = 16 * MIB
const OK = { ok: true, problems: [] }

const sh = (command: string, input = ''): string =>
  execFileSync('sh', ['-ec', command], { encoding: 'utf8', input, maxBuffer: 2 ** 26 })

/** The SHA-256 of the first bytes of an image, in a file or as a device. */
const digest = (path: string): string =>
  createHash('sha256').update(readFileSync(path).subarray(0, SIZE)).digest('hex')

const sumOf = (name: string): string => readFileSync(`${SHARE}/${name}.sha256`, 'utf8')

const partition = (uuid: string): string => `/dev/disk/by-partuuid/${uuid}`

/** The store on the root filesystem, and that on the other one; what is recorded is on the root. */
const onRoot = (): Promise<ImageStore> =>
  ImageStore.open('/var/lib/images', { metadata: '/etc/dmloop/images' })
const onData = (): Promise<ImageStore> =>
  ImageStore.open('/srv/data/images', { metadata: '/etc/dmloop/data' })

/** Makes an image with two partitions, the first of which is full. */
async function makeImage(store: ImageStore, name: string): Promise<void> {
  const content = '/tmp/content'
  sh(`truncate -s ${SIZE} ${content}; sfdisk -q ${content}`, 'label: gpt\nsize=8MiB\nsize=4MiB\n')
  sh(
    `dd if=/dev/urandom of=${content} bs=1M seek=1 count=8 conv=notrunc status=none
    mkdir -p ${store.directory}`,
  )
  await store.create(name, { from: content, partitions: true })
  writeFileSync(`${SHARE}/${name}.sha256`, digest(content))
  rmSync(content)
}

/** The boot files of a store, for an initramfs that is made outside. */
async function saveBootFiles(
  store: ImageStore,
  name: string,
  options: ExportBootOptions = {},
): Promise<void> {
  for (const kind of KINDS) {
    const root = `/tmp/boot-${kind}`
    const files = await store.exportBoot(kind, { ...options, root })
    assert.ok(files.every((file) => file.startsWith(`${root}/`)))
    sh(`tar -C ${root} -cf ${SHARE}/${name}-${kind}.tar .`)
  }
}

/** Checks an image that the boot has mapped, as far as that changes nothing. */
async function checkImage(store: ImageStore, name: string): Promise<void> {
  const device = await openMapping(name)
  assert.deepEqual(await device.verify(), OK)
  assert.equal(digest(device.path), sumOf(name))
  assert.equal(device.partitions.length, 2)
  assert.equal(await store.isMapped(name), true)
  assert.deepEqual(await store.validate(name), OK)
}

const STEPS: Record<string, (...args: string[]) => Promise<void>> = {
  /** On a root that is mounted as usual. */
  async firstWrapper(partUuid = '') {
    const wrappers = [{ name: 'root', device: partition(partUuid) }]
    await saveBootFiles(await onRoot(), 'first', { wrappers })
  },

  /** On a root that is mounted through its wrapper. */
  async mapOnRoot() {
    const store = await onRoot()
    await makeImage(store, 'disk1')
    await saveBootFiles(store, 'root')
  },

  async checkRoot() {
    assert.match(sh('findmnt -no SOURCE /'), /^\/dev\/mapper\/root$/m)
    assert.deepEqual(await (await openMapping('root')).verify(), OK)
    await checkImage(await onRoot(), 'disk1')
    // The same script again changes nothing.
    const before = sh('dmsetup info -c --noheadings -o name,uuid,major,minor')
    await (await onRoot()).exportBoot('systemd')
    sh(
      '/etc/dmloop/boot/map; rm -r /etc/dmloop/boot /etc/systemd/system/*dmloop* /etc/systemd/system/local-fs.target.d',
    )
    assert.equal(sh('dmsetup info -c --noheadings -o name,uuid,major,minor'), before)
  },

  async unmapRoot() {
    const store = await onRoot()
    await checkImage(store, 'disk1')
    await store.unmap('disk1')
    const file = '/var/lib/images/disk1.img'
    assert.match(sh(`lsattr ${file}`), /^\S*i/, 'the guard stays')
    assert.equal(digest(file), sumOf('disk1'))
    assert.doesNotMatch(sh('dmsetup ls'), /disk1/)
    // Now the boot files are no longer true: root has put a copy in its place.
    sh(
      `chattr -i ${file}; cp ${file} ${file}.new; shred -n 1 ${file}; mv ${file}.new ${file}; sync`,
    )
  },

  async checkSkipped() {
    assert.match(sh('findmnt -no SOURCE /'), /^\/dev\/mapper\/root$/m)
    assert.doesNotMatch(sh('dmsetup ls'), /disk1/)
    const { ok, problems } = await (await onRoot()).validate('disk1')
    assert.equal(ok, false)
    assert.equal(problems[0]?.code, 'DMLOOP_FILE_CHANGED')
  },

  /** On another filesystem: an image for the units, and one with a whole system. */
  async mapOnData(partUuid = '', seed = '') {
    const wrapper = await wrapDevice(partition(partUuid), { name: 'data' })
    mkdirSync('/srv/data', { recursive: true })
    sh(`mount ${wrapper.path} /srv/data`)
    const store = await onData()
    await makeImage(store, 'disk2')
    if (seed !== '') await store.create('system', { from: seed })
    await store.exportBoot('systemd')
    if (seed !== '') await saveBootFiles(store, 'system')
    appendFileSync('/etc/fstab', '/dev/mapper/data /srv/data ext4 defaults 0 2\n')
  },

  async checkData() {
    assert.match(sh('findmnt -no SOURCE /srv/data'), /^\/dev\/mapper\/data$/m)
    await checkImage(await onData(), 'disk2')
  },

  async unmapData() {
    const store = await onData()
    await checkImage(store, 'disk2')
    await store.unmap('disk2')
    const command = fileURLToPath(new URL('../../../dist/cli/dmloop.js', import.meta.url))
    const words = ['image', 'delete', '--metadata=/etc/dmloop/data', store.directory, 'disk2']
    const run = spawnSync(process.execPath, [command, ...words], { encoding: 'utf8' })
    assert.equal(run.status, 0, run.stderr)
    assert.match(run.stderr, /the boot files are to be made again/)
    assert.doesNotMatch(sh('ls /srv/data/images'), /disk2/)
  },

  /** With the root in an image. */
  async checkSystem(round = '') {
    assert.match(sh('findmnt -no SOURCE /'), /^\/dev\/mapper\/system$/m)
    for (let earlier = 1; earlier < Number(round); earlier++) {
      const written = `/root/written-${earlier}`
      assert.equal(sh(`sha256sum <${written}`), readFileSync(`${SHARE}/written-${earlier}`, 'utf8'))
    }
    sh(`head -c 8M /dev/urandom >/root/written-${round}; sync`)
    writeFileSync(`${SHARE}/written-${round}`, sh(`sha256sum </root/written-${round}`))
    mkdirSync('/srv/data', { recursive: true })
    sh('mount /dev/mapper/data /srv/data')
    const device = await openMapping('system')
    assert.deepEqual(await device.verify(), OK)
    await assert.rejects(device.unmap({ timeout: 8000 }), { code: 'DMLOOP_STILL_OPEN' })
    sh('umount /srv/data')
  },
}

const [name = '', ...args] = process.argv.slice(2)
const step = STEPS[name]
if (!step) throw new Error(`there is no step ${name}`)
await step(...args)
