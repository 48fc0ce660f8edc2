// Files on real LVM volumes: on any stack of layers that only translate addresses a mapping shows the
// file's bytes, and on the others it is said which layer stops it.
import { mkdirSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { mapFile, planFile, releaseFile, type DmloopError } from 'dmloop'
import { native } from '#lib/kernel/native.js'
import {
  below,
  deviceNames,
  fileState,
  fragmentedFile,
  leftFiles,
  randomFile,
  randomNumbers,
  scaled,
  sh,
} from './lab.js'
import { roundTrip } from './round-trip.js'

const random = randomNumbers(4)
const FILES = scaled(7, 3)
/** MiB: the least that mkfs.xfs takes is 300. */
const SIZE = 320

mkdirSync('/tmp/lvm')
mkdirSync('/run/lock', { recursive: true })
mkdirSync('/tmp/at')
process.env.LVM_SYSTEM_DIR = '/tmp/lvm'
writeFileSync(
  '/tmp/lvm/lvm.conf',
  `devices { use_devicesfile=0 scan_lvs=1 }
   activation { udev_sync=0 udev_rules=0 monitoring=0 }
   global { thin_check_executable="" thin_repair_executable="" }
   backup { backup=0 archive=0 }`,
)
sh('truncate -s 600M /tmp/disk; losetup /dev/loop0 /tmp/disk')
const DISKS = ['/dev/ram0', '/dev/ram1', '/dev/loop0']
const CREATE = 'lvcreate -q -y -Wn -Zn'

/** A volume that is extended in ten steps of random length, each on a random disk. */
function inTenSteps(): string {
  const steps = Array.from({ length: 10 }, () => 4 * (1 + below(random, 12)))
  const rest = SIZE - steps.reduce((sum, step) => sum + step, 0)
  sh(`${CREATE} -an -L ${Math.max(rest, 4)}M -n steps vg ${DISKS[0]}`)
  for (const step of steps) sh(`lvextend -q -L +${step}M vg/steps ${DISKS[below(random, 3)]}`)
  sh(`lvextend -q -L ${SIZE + 40}M vg/steps; lvchange -ay vg/steps`)
  return '/dev/vg/steps'
}

const striped = (columns: number, chunk: string) => (): string => {
  sh(`${CREATE} -i ${columns} -I ${chunk} -L ${SIZE}M -n striped vg`)
  return '/dev/vg/striped'
}

/** A volume of a group whose only disk is a striped volume of another. */
function volumeOnVolume(): string {
  sh(`${CREATE} -i 2 -I 64k -L ${SIZE + 40}M -n lower vg; vgcreate -q -y upper /dev/vg/lower`)
  sh(`${CREATE} -L 40M -n first upper; ${CREATE} -L 60M -n volume upper`)
  sh(`lvremove -q -y upper/first; lvextend -q -L ${SIZE}M upper/volume`)
  return '/dev/upper/volume'
}

const luks = (device: string, name: string): void => {
  const weak = '--pbkdf pbkdf2 --pbkdf-force-iterations 1000'
  sh(`printf secret | cryptsetup -q luksFormat ${weak} --key-file - ${device}`)
  sh(`printf secret | cryptsetup open --key-file - ${device} ${name}`)
}

/** A volume of a group whose only disk is encrypted: the mapping is on top of the encryption. */
function volumeOnLuks(): string {
  sh(`${CREATE} -L ${SIZE + 60}M -n encrypted vg`)
  luks('/dev/vg/encrypted', 'clear')
  sh(`vgcreate -q -y upper /dev/mapper/clear; ${CREATE} -L ${SIZE}M -n volume upper`)
  return '/dev/upper/volume'
}

interface Stack {
  make: () => string
  /** The device of the segments, as `dmsetup table` shows it. */
  on: RegExp
}

const STACKS: Record<string, Stack> = {
  'a linear volume over three disks, extended in ten steps': {
    make: inTenSteps,
    on: /1:0|1:1|7:0/,
  },
  '2 stripes of 4 KiB': { make: striped(2, '4k'), on: /1:0|1:1|7:0/ },
  '3 stripes of 4 KiB': { make: striped(3, '4k'), on: /1:0|1:1|7:0/ },
  '2 stripes of 64 KiB': { make: striped(2, '64k'), on: /1:0|1:1|7:0/ },
  '3 stripes of 256 KiB': { make: striped(3, '256k'), on: /1:0|1:1|7:0/ },
  '2 stripes of 1 MiB': { make: striped(2, '1m'), on: /1:0|1:1|7:0/ },
  '3 stripes of 1 MiB': { make: striped(3, '1m'), on: /1:0|1:1|7:0/ },
  'a volume on a volume': { make: volumeOnVolume, on: /1:0|1:1|7:0/ },
  'a volume on LUKS': { make: volumeOnLuks, on: /254:/ },
}

function makeGroup(): void {
  sh(`wipefs -aq ${DISKS.join(' ')}; vgcreate -q -y vg ${DISKS.join(' ')} 2>&1`)
}

function removeGroups(): void {
  sh(`if mountpoint -q /tmp/at; then umount /tmp/at; fi
      vgremove -q -ff -y upper 2>/dev/null || true
      if [ -e /dev/mapper/clear ]; then cryptsetup close clear; fi
      vgremove -q -ff -y vg`)
}

for (const [what, { make, on }] of Object.entries(STACKS)) {
  await t.test(what, async (t) => {
    makeGroup()
    t.teardown(removeGroups)
    const device = make()
    const devices = deviceNames()
    let most = 0
    for (const filesystem of ['ext4', 'xfs']) {
      sh(`wipefs -aq ${device}; mkfs.${filesystem} -q ${device}; mount ${device} /tmp/at`)
      for (let index = 0; index < FILES; index++) {
        // LUKS may make logical blocks of 4096 bytes of a disk's 512.
        const bytes = 4096 * Math.ceil(2 ** (1 + random() * 10))
        const file = `/tmp/at/${index}`
        fragmentedFile(file, bytes, Math.ceil((bytes / 4096) ** random()), index)
        most = Math.max(most, await roundTrip(t, file, { verify: 'full' }, random))
      }
      const { segments } = await planFile('/tmp/at/0')
      t.ok(
        [...segments].every((segment) => on.test(segment.device ?? '')),
        'down to the right devices',
      )
      sh('umount /tmp/at')
    }
    t.ok(most > 1, `up to ${most} segments`)
    t.strictSame(deviceNames(), devices, 'no device is left')
    t.strictSame(
      leftFiles().filter((name) => !/^(vg|upper)$/.test(name)),
      [],
      'nor a record',
    )
  })
}

interface Refusal {
  make: () => string
  code: string
  /** The layers from the filesystem down, and which of them stops it. */
  message: RegExp
  undo?: string
}

const REFUSALS: Record<string, Refusal> = {
  'straight on a disk': {
    make: () => '/dev/ram0',
    code: 'DMLOOP_DEVICE_CLAIMED',
    message:
      /is stored on ext4 on ram0, and the filesystem, mounted on \/tmp\/at, holds that device/,
  },
  'on LUKS': {
    make() {
      luks('/dev/ram0', 'clear')
      return '/dev/mapper/clear'
    },
    code: 'DMLOOP_OPAQUE_DEVICE',
    message: /ext4 on dm-0 "clear" \(crypt, 1 segment\) on ram0, and "clear" \(crypt\) does more/,
    undo: 'cryptsetup close clear',
  },
  'on a thin volume': {
    make() {
      makeGroup()
      sh(`lvcreate -q -y --type thin-pool -L 40M -n pool vg
          lvcreate -q -y -Wn -V 40M --thinpool pool -n thin vg`)
      return '/dev/vg/thin'
    },
    code: 'DMLOOP_OPAQUE_DEVICE',
    message:
      /ext4 on dm-\d+ "vg-thin" \(thin, 1 segment\) on dm-\d+ "vg-pool-tpool" \(thin-pool.* on loop0 .* and ram0, and "vg-thin" \(thin\) does more/,
    undo: 'vgremove -q -ff -y vg',
  },
  'on a volume with a snapshot': {
    make() {
      makeGroup()
      sh(`${CREATE} -L 40M -n origin vg; lvcreate -q -y -s -L 12M -n snap vg/origin`)
      return '/dev/vg/origin'
    },
    code: 'DMLOOP_OPAQUE_DEVICE',
    message:
      /"vg-origin" \(snapshot-origin, 1 segment\) on dm-\d+ "vg-origin-real" \(linear, 1 segment\)/,
    undo: 'vgremove -q -ff -y vg',
  },
  'on a snapshot': {
    make() {
      makeGroup()
      sh(`${CREATE} -L 40M -n origin vg; lvcreate -q -y -s -L 12M -n snap vg/origin`)
      return '/dev/vg/snap'
    },
    code: 'DMLOOP_OPAQUE_DEVICE',
    message: /"vg-snap" \(snapshot\) does more than translate addresses/,
    undo: 'vgremove -q -ff -y vg',
  },
  'on a raid1 volume': {
    make() {
      makeGroup()
      sh(`lvcreate -q -y -Wn -Zn --type raid1 -m 1 -L 40M -n mirror vg`)
      return '/dev/vg/mirror'
    },
    code: 'DMLOOP_OPAQUE_DEVICE',
    message:
      /"vg-mirror" \(raid, 1 segment\) on .*"vg-mirror_rimage_0".* and .*"vg-mirror_rimage_1"/,
    undo: 'vgremove -q -ff -y vg',
  },
  'on an md array': {
    make() {
      // What mdadm would do, without a superblock.
      sh(`modprobe raid1
          echo md0 >/sys/module/md_mod/parameters/new_array
          cd /sys/block/md0/md
          echo none >metadata_version; echo raid1 >level; echo 2 >raid_disks
          echo 1:0 >new_dev; echo 0 >dev-ram0/slot; echo 65536 >component_size
          echo active >array_state
          mknod /dev/md0 b 9 0 2>/dev/null || true`)
      return '/dev/md0'
    },
    code: 'DMLOOP_DEVICE_CLAIMED',
    message: /ext4 on md0 \(md raid1\) on ram0, and the filesystem/,
    undo: 'echo clear >/sys/block/md0/md/array_state',
  },
}

for (const [what, { make, code, message, undo = ':' }] of Object.entries(REFUSALS)) {
  await t.test(what, async (t) => {
    sh(`wipefs -aq ${DISKS.join(' ')}`)
    const device = make()
    sh(`mkfs.ext4 -q ${device}; mount ${device} /tmp/at`)
    t.teardown(() => sh(`if mountpoint -q /tmp/at; then umount /tmp/at; fi; ${undo}`))
    randomFile('/tmp/at/image', 1 << 20)
    const error = (await mapFile('/tmp/at/image').catch((error: unknown) => error)) as DmloopError
    t.equal(error.code, code)
    t.match(error.message, message)
    t.match(
      (await planFile('/tmp/at/image')).problems,
      [{ code, message }],
      'the plan says the same',
    )
    const fallen = await mapFile('/tmp/at/image', { backend: 'auto', verify: 'full' })
    t.match(
      fallen,
      { backend: 'loop', directIo: true, fallback: [{ code, message }] },
      'auto works',
    )
    await fallen.unmap()
    await roundTrip(t, '/tmp/at/image', { backend: 'auto' }, random)
    t.strictSame(
      leftFiles().filter((name) => name !== 'vg'),
      [],
    )
  })
}

interface Change {
  /** Begins to change something about vg/volume. */
  begin: string
  end: string
  message: RegExp
  /** Whether the filesystem is frozen meanwhile, so that nothing can be done to its files. */
  frozen?: boolean
}

const sameTable = 'dmsetup table vg-volume | dmsetup load vg-volume'
const CHANGES: Record<string, Change> = {
  'a volume with another table waiting': {
    begin: sameTable,
    end: 'dmsetup clear vg-volume',
    message: /ext4 on dm-\d+ "vg-volume" .*, and "vg-volume" has another table waiting/,
  },
  'a suspended volume': {
    begin: 'dmsetup suspend vg-volume',
    end: 'dmsetup resume vg-volume',
    message: /and "vg-volume" is suspended/,
    frozen: true,
  },
  'a suspended underlying disk': {
    begin: 'dmsetup suspend slow',
    end: 'dmsetup resume slow',
    message: /on dm-\d+ "slow" .*, and "slow" is suspended/,
    frozen: true,
  },
  'a volume under pvmove': {
    // So slow that it is in the middle of it for as long as this takes.
    begin: `dmsetup load slow --table "$(dmsetup table slow | sed 's/$/ 1:1 8192 500/')"
      dmsetup resume slow; pvmove -q -b -i 1 -n volume /dev/ram0 /dev/mapper/slow
      until dmsetup table | grep -q 'pvmove0: .* mirror'; do sleep 0.1; done`,
    end: `pvmove -q --abort
      dmsetup load slow --table "$(dmsetup table slow | sed 's/ 1:1 8192 500$//')"
      dmsetup resume slow`,
    message:
      /"vg-volume" .* on dm-\d+ "vg-pvmove0" \(mirror.*, and "vg-pvmove0" is the temporary volume of a pvmove/,
  },
}

for (const [what, { begin, end, message, frozen = false }] of Object.entries(CHANGES)) {
  await t.test(what, async (t) => {
    sh('modprobe -a dm-delay dm-mirror')
    // Not from the start: LVM would find its label on the disk itself as well.
    sh('dmsetup create slow --table "0 819200 delay 1:1 8192 0"')
    sh(`wipefs -aq /dev/ram0 /dev/mapper/slow; vgcreate -q -y vg /dev/ram0 /dev/mapper/slow 2>&1
        ${CREATE} -L 200M -n volume vg ${what.includes('underlying') ? '/dev/mapper/slow' : '/dev/ram0'}
        mkfs.ext4 -q /dev/vg/volume; mount /dev/vg/volume /tmp/at`)
    t.teardown(() => sh('umount /tmp/at; vgremove -q -ff -y vg; dmsetup remove --retry slow'))
    const file = '/tmp/at/image'
    randomFile(file, 1 << 20)
    const state = fileState(file)
    const refusal = { code: 'DMLOOP_DEVICE_BUSY', message, remedy: /pvmove --abort/ }
    const devices = deviceNames()

    // Between the two looks.
    const honest = native.dmLoad
    native.dmLoad = async (...args) => {
      const loaded = await honest(...args)
      sh(frozen ? sameTable : begin)
      return loaded
    }
    const second = await mapFile(file).catch((error: unknown) => error)
    native.dmLoad = honest
    t.match(second, frozen ? { code: refusal.code } : refusal, 'the second look sees it')
    sh(frozen ? 'dmsetup clear vg-volume' : end)
    t.equal(fileState(file), state, 'the file is as it was')
    t.strictSame(deviceNames(), devices, 'no device is left')

    const mapping = await mapFile(file)
    sh(begin)
    t.match((await planFile(file)).problems[0], refusal, 'the plan')
    t.match((await mapping.verify()).problems[0], refusal, 'a mapping that was there before')
    sh(end)
    t.strictSame(await mapping.verify(), { ok: true, problems: [] })
    await mapping.unmap()

    sh(begin)
    await t.rejects(mapFile(file), refusal, 'the first look')
    if (!frozen) {
      const loop = await mapFile(file, { backend: 'auto', verify: 'full' })
      t.match(loop, { backend: 'loop', fallback: [refusal] }, 'auto works')
      await loop.unmap()
    }
    sh(end)
    t.equal(fileState(file), state, 'the file is as it was')
    await roundTrip(t, file, { verify: 'full' }, random)
  })
}

await t.test('verify() finds that the volume was snapshotted or moved', async (t) => {
  sh('modprobe -a dm-snapshot dm-mirror')
  sh(`wipefs -aq ${DISKS.join(' ')}; vgcreate -q -y vg /dev/ram0 /dev/ram1 2>&1
      ${CREATE} -L 40M -n volume vg /dev/ram0
      mkfs.ext4 -q /dev/vg/volume; mount /dev/vg/volume /tmp/at`)
  t.teardown(() => sh('umount /tmp/at; vgremove -q -ff -y vg'))
  const file = '/tmp/at/image'
  randomFile(file, 1 << 20)
  const device = await mapFile(file)
  const files = ['', '/tmp/at/second', '/tmp/at/left'] as const
  for (const each of files.slice(1)) randomFile(each, 1 << 20)
  const before = fileState(files[1])
  const second = await mapFile(files[1])
  await mapFile(files[2], { name: 'left' })
  sh('dmsetup remove --retry left')

  sh('lvcreate -q -y -s -L 12M -n snap vg/volume')
  const opaque = { code: 'DMLOOP_OPAQUE_DEVICE', message: /snapshot-origin/ }
  t.match(await device.verify(), { ok: false, problems: [opaque] }, 'lvcreate -s')
  await second.unmap()
  t.equal(fileState(files[1]), before, 'a file is found on a volume with a snapshot')
  await t.rejects(releaseFile(files[2]), { code: opaque.code }, 'a mapping may have its blocks')
  sh('lvremove -q -ff -y vg/snap')
  await releaseFile(files[2])
  t.notMatch(sh(`lsattr ${files[2]}`), /^-+i/, 'none has')
  t.strictSame(await device.verify(), { ok: true, problems: [] }, 'and that the snapshot is gone')

  sh('pvmove -q -i 1 -n volume /dev/ram0 /dev/ram1')
  const moved = { code: 'DMLOOP_FILE_CHANGED', file, offset: 0 }
  t.match(await device.verify(), { ok: false, problems: [moved] }, 'pvmove')
  await device.unmap()
})
