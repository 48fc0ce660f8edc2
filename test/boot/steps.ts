// What a test does in the booted system: steps.js STEP [ARGUMENT ...]. The first failure ends it.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { createImage, mapFile, openMapping, wrapDevice, type MappedDevice } from '#lib/index.js'
import { native, result } from '#lib/kernel/native.js'
import { bootFiles, type BootPlan } from '#lib/store/boot-files.js'
import { formatPlan, parsePlan } from './plan-file.js'

const SHARE = '/mnt/share'
const MIB = 2 ** 20

const sh = (command: string, input = ''): string =>
  execFileSync('sh', ['-ec', command], { encoding: 'utf8', input })

const digest = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex')

type Device = BootPlan['devices'][number]

/** A mapping as boot files describe it. All its blocks are on the first disk. */
async function describe(device: MappedDevice, file: string, probeAt: number): Promise<Device> {
  const handle = await open(file)
  // The journal must hold nothing more about the file.
  await result(native.flushJournal(handle.fd), file)
  await handle.close()
  const lines = sh(`dmsetup table ${device.name}`).trim().split('\n')
  const segments = lines.map((line) => {
    const [, length, , , offset] = line.split(' ')
    return { length: Number(length), disk: 0, offset: Number(offset) }
  })
  const disk = await open(device.path)
  const bytes = Buffer.alloc(4096)
  await disk.read(bytes, 0, bytes.length, probeAt)
  await disk.close()
  return {
    name: device.name,
    filesystem: { wrapper: 0 },
    identity: device.uuid.replace(/^DMLOOP-\d+-\d+-/, ''),
    readOnly: device.readOnly,
    segments,
    probe: { ...placeOf(segments, probeAt / 512), bytes: new Uint8Array(bytes) },
    partitions: device.partitions.map(({ number, path, start, size }) => ({
      number,
      name: path.replace('/dev/mapper/', ''),
      start: start / 512,
      length: size / 512,
    })),
  }
}

/** Where a sector of an image is on the disk. */
function placeOf(segments: Device['segments'], sector: number): { disk: number; sector: number } {
  let start = 0
  for (const { length, disk, offset } of segments) {
    if (sector < start + length) return { disk, sector: offset + sector - start }
    start += length
  }
  throw new Error(`the image has no sector ${sector}`)
}

/** Makes an image with two partitions in a folder, maps it, and writes to the first partition. */
async function mapImage(folder: string, name: string): Promise<Device> {
  mkdirSync(folder, { recursive: true })
  const file = `${folder}/${name}.img`
  await createImage(file, { size: 16 * MIB })
  sh(`sfdisk -q ${file}`, 'label: gpt\nsize=8MiB\nsize=4MiB\n')
  const device = await mapFile(file, { name, partitions: true })
  const [partition] = device.partitions
  assert.ok(partition)
  sh(`dd if=/dev/urandom of=${partition.path} bs=1M oflag=direct status=none || :`)
  writeFileSync(`${SHARE}/${name}.sha256`, digest(device.path))
  return await describe(device, file, 0)
}

const savePlan = (name: string, plan: BootPlan): void =>
  writeFileSync(`${SHARE}/${name}.json`, formatPlan(plan))

/** A disk by the UUID of its partition. */
function diskOf(partUuid: string): BootPlan['disks'][number] {
  const path = `/dev/disk/by-partuuid/${partUuid}`
  return { by: 'PARTUUID', value: partUuid, size: Number(sh(`blockdev --getsize64 ${path}`)) }
}

/** Checks a mapping that the boot has made, as far as that changes nothing. */
async function checkMapping(name: string): Promise<MappedDevice> {
  const device = await openMapping(name)
  assert.deepEqual(await device.verify(), { ok: true, problems: [] })
  assert.equal(digest(device.path), readFileSync(`${SHARE}/${name}.sha256`, 'utf8'))
  assert.equal(device.partitions.length, 2)
  return device
}

/** What holds a file while it is mapped is gone. */
function assertReleased(file: string): void {
  assert.doesNotMatch(sh(`lsattr ${file}`), /^\S*i/)
  assert.equal(sh(`getfattr -m trusted.dmloop ${file} 2>/dev/null || :`), '')
}

const STEPS: Record<string, (...args: string[]) => Promise<void>> = {
  /** On a root that is mounted through its wrapper. */
  async mapOnRoot(partUuid = '') {
    const device = await mapImage('/var/lib/images', 'disk1')
    const wrappers = [{ name: 'root', disk: 0 }]
    savePlan('root', { disks: [diskOf(partUuid)], wrappers, devices: [device] })
  },

  async checkRoot() {
    assert.match(sh('findmnt -no SOURCE /'), /^\/dev\/mapper\/root$/m)
    assert.deepEqual(await (await openMapping('root')).verify(), { ok: true, problems: [] })
    await checkMapping('disk1')
    // The same script again changes nothing.
    const before = sh('dmsetup info -c --noheadings -o name,uuid,major,minor')
    for (const { path, mode, content } of bootFiles(readPlan('root'), 'systemd')) {
      mkdirSync(path.replace(/\/[^/]*$/, ''), { recursive: true })
      writeFileSync(path, content, { mode })
    }
    sh(
      '/etc/dmloop/boot/map; rm -r /etc/dmloop /etc/systemd/system/*dmloop* /etc/systemd/system/local-fs.target.d',
    )
    assert.equal(sh('dmsetup info -c --noheadings -o name,uuid,major,minor'), before)
  },

  async unmapRoot() {
    const device = await checkMapping('disk1')
    await device.unmap()
    assertReleased('/var/lib/images/disk1.img')
    assert.equal(digest('/var/lib/images/disk1.img'), readFileSync(`${SHARE}/disk1.sha256`, 'utf8'))
    assert.doesNotMatch(sh('dmsetup ls'), /disk1/)
    // Now the boot files are no longer true.
    sh(
      'dd if=/dev/zero of=/var/lib/images/disk1.img bs=4096 count=1 conv=notrunc,fsync status=none',
    )
  },

  async checkSkipped() {
    assert.match(sh('findmnt -no SOURCE /'), /^\/dev\/mapper\/root$/m)
    assert.doesNotMatch(sh('dmsetup ls'), /disk1/)
    await Promise.resolve()
  },

  /** On another filesystem: an image for the units, and one with a whole system. */
  async mapOnData(partUuid = '', seed = '') {
    const disk = diskOf(partUuid)
    const wrapper = await wrapDevice(`/dev/disk/by-partuuid/${partUuid}`, { name: 'data' })
    mkdirSync('/srv/data', { recursive: true })
    sh(`mount ${wrapper.path} /srv/data`)
    const wrappers = [{ name: 'data', disk: 0 }]
    // By the filesystem's own UUID, which is on the wrapper as well.
    const value = sh(`blkid -o value -s UUID ${wrapper.path}`).trim()
    const plan: BootPlan = {
      disks: [{ ...disk, by: 'UUID', value }],
      wrappers,
      devices: [await mapImage('/srv/data', 'disk2')],
    }
    for (const { path, mode, content } of bootFiles(plan, 'systemd')) {
      mkdirSync(path.replace(/\/[^/]*$/, ''), { recursive: true })
      writeFileSync(path, content, { mode })
    }
    appendFileSync('/etc/fstab', '/dev/mapper/data /srv/data ext4 defaults 0 2\n')
    await createImage('/srv/data/system.img', { from: seed })
    const system = await mapFile('/srv/data/system.img', { name: 'system' })
    // The second copy of ext4's superblock: only resize2fs and tune2fs write there.
    const device = await describe(system, '/srv/data/system.img', 32768 * 4096)
    savePlan('system', { disks: [disk], wrappers, devices: [device] })
  },

  async checkData() {
    assert.match(sh('findmnt -no SOURCE /srv/data'), /^\/dev\/mapper\/data$/m)
    await checkMapping('disk2')
  },

  async unmapData() {
    await (await checkMapping('disk2')).unmap()
    assertReleased('/srv/data/disk2.img')
  },

  /** With the root in an image. */
  async checkSystem(round = '') {
    assert.match(sh('findmnt -no SOURCE /'), /^\/dev\/mapper\/system$/m)
    for (let earlier = 1; earlier < Number(round); earlier++) {
      assert.equal(
        digest(`/root/written-${earlier}`),
        readFileSync(`${SHARE}/written-${earlier}`, 'utf8'),
      )
    }
    sh(`head -c 8M /dev/urandom >/root/written-${round}; sync`)
    writeFileSync(`${SHARE}/written-${round}`, digest(`/root/written-${round}`))
    mkdirSync('/srv/data', { recursive: true })
    sh('mount /dev/mapper/data /srv/data')
    const device = await openMapping('system')
    assert.deepEqual(await device.verify(), { ok: true, problems: [] })
    await assert.rejects(device.unmap({ timeout: 1000 }), { code: 'DMLOOP_STILL_OPEN' })
    sh('umount /srv/data')
  },
}

const readPlan = (name: string): BootPlan =>
  parsePlan(readFileSync(`${SHARE}/${name}.json`, 'utf8'))

const [name = '', ...args] = process.argv.slice(2)
const step = STEPS[name]
if (!step) throw new Error(`there is no step ${name}`)
await step(...args)
