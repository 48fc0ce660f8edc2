// The files for the boot, and their script under dash and busybox. A fake dmsetup, fake disks and a fake sysfs show what
// cannot be provoked in a guest; test/boot boots the real ones.
import { execFileSync, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { BOOT_KINDS, bootFiles, type BootPlan } from '#lib/store/boot-files.js'

const HANDLE = 'h0123456789abcdef'
const BLOCK = Buffer.alloc(4096, 'block of the image ')

const PLAN: BootPlan = {
  disks: [
    { by: 'PARTUUID', value: '11111111-01', size: 2048 * 512, number: '8:1' },
    { by: 'LV', value: 'abcdef-0123-4567-89ab-cdef-0123-456789', size: 4096 * 512 },
  ],
  wrappers: [{ name: 'host', disk: 0 }],
  devices: [
    {
      name: 'disk1',
      filesystem: { wrapper: 0 },
      identity: HANDLE,
      readOnly: false,
      segments: [
        { length: 8, disk: 0, offset: 64 },
        { length: 16, disk: 0, offset: 128 },
      ],
      probe: { disk: 0, sector: 128, bytes: BLOCK },
      partitions: [{ number: 1, name: 'disk1p1', start: 8, length: 8 }],
    },
  ],
}

const [IMAGE] = PLAN.devices as [BootPlan['devices'][number]]
const withDevice = (change: Partial<typeof IMAGE>): BootPlan => ({
  ...PLAN,
  devices: [{ ...IMAGE, ...change }],
})

const fileNamed = (plan: BootPlan, path: string): string =>
  String(bootFiles(plan, 'initramfs-tools').find((file) => file.path === path)?.content)

await t.test('the plan and the tables', (t) => {
  t.equal(
    fileNamed(PLAN, '/etc/dmloop/boot/plan'),
    [
      'disk 0 PARTUUID 11111111-01 2048',
      'disk 1 LV abcdef0123456789abcdef0123456789 4096',
      'wrapper 0 host 0',
      // Sector 128 of the disk is its block 16.
      `image 0 disk1 wrapper_0 ${HANDLE} rw 0 4096 16 1`,
      'part 1 disk1p1 8 8 rw',
      '',
    ].join('\n'),
  )
  t.equal(fileNamed(PLAN, '/etc/dmloop/boot/0.table'), '0 8 linear 0 64\n8 16 linear 0 128\n')
  const probe = { disk: 0, sector: 71, bytes: BLOCK }
  const unaligned = withDevice({ probe, readOnly: true })
  t.match(fileNamed(unaligned, '/etc/dmloop/boot/plan'), `${HANDLE} readonly 0 512 71 8\n`)
  t.end()
})

await t.test('plans that contradict themselves, or a shell could misread', (t) => {
  const [disk] = PLAN.disks as [BootPlan['disks'][number]]
  const bad: BootPlan[] = [
    { ...PLAN, disks: [{ ...disk, value: '$(reboot)' }] },
    { ...PLAN, disks: [{ ...disk, size: 1000 }] },
    { ...PLAN, wrappers: [{ name: 'a b', disk: 0 }] },
    { ...PLAN, wrappers: [{ name: 'host', disk: 2 }] },
    withDevice({ name: '../x' }),
    withDevice({ identity: 'h0' }),
    withDevice({ filesystem: { wrapper: 1 } }),
    withDevice({ filesystem: { disk: 2 } }),
    withDevice({ segments: [{ length: 0, disk: 0, offset: 0 }] }),
    withDevice({ segments: [{ length: 24, disk: 0, offset: 0.5 }] }),
    withDevice({ probe: { disk: 2, sector: 0, bytes: BLOCK } }),
    withDevice({ probe: { disk: 0, sector: 0.5, bytes: BLOCK } }),
    withDevice({ probe: { disk: 0, sector: 0, bytes: new Uint8Array(100) } }),
    withDevice({ probe: { disk: 0, sector: 0, bytes: new Uint8Array() } }),
    withDevice({ partitions: [{ number: 1, name: 'x;y', start: 0, length: 1 }] }),
  ]
  for (const [index, plan] of bad.entries()) {
    t.throws(() => bootFiles(plan, 'systemd'), `plan ${index}`)
  }
  t.end()
})

await t.test('dm-mod.create', (t) => {
  const argument = (plan: BootPlan): string => {
    const [file] = bootFiles(plan, 'dm-mod.create')
    return String(file?.content)
  }
  const plan = { ...PLAN, mapperMajor: 253 }
  const uuid = `DMLOOP-253-0-${HANDLE}`
  const disk = 'PARTUUID=11111111-01'
  t.match(
    argument(plan),
    [
      `host,DMLOOP_WRAP-8-1,0,rw,0 2048 linear ${disk} 0`,
      `disk1,${uuid},1,rw,0 8 linear ${disk} 64,8 16 linear ${disk} 128`,
      `disk1p1,part1-${uuid},2,rw,0 8 linear /dev/dm-1 8`,
    ].join(';'),
  )
  t.throws(() => argument(PLAN), /major number/)
  t.throws(() => argument({ ...plan, wrappers: [{ name: 'host', disk: 1 }] }), /number of the disk/)
  const segments = (count: number) =>
    Array.from({ length: count }, () => ({ length: 8, disk: 0, offset: 8 }))
  t.throws(
    () => argument({ ...plan, ...withDevice({ segments: segments(257) }), mapperMajor: 1 }),
    {
      code: 'ERR_OUT_OF_RANGE',
      message: /257 targets/,
    },
  )
  t.throws(
    () => argument({ ...plan, ...withDevice({ segments: segments(256) }), mapperMajor: 1 }),
    {
      code: 'ERR_OUT_OF_RANGE',
      message: /bytes/,
    },
  )
  const wrappers = Array.from({ length: 257 }, () => ({ name: 'w', disk: 0 }))
  t.throws(() => argument({ ...plan, wrappers }), /259 devices/)
  t.end()
})

/** Not `t.testdir`: its name is the same in each release of Node that runs this test at once. */
function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'dmloop-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

const checkers = (script: string): string[][] =>
  script.startsWith('#!/bin/bash')
    ? [['bash', '-n']]
    : [
        ['dash', '-n'],
        ['busybox', 'sh', '-n'],
        ['shellcheck', '--exclude=SC1091'],
      ]

await t.test('shellcheck, dash and busybox can read every script', (t) => {
  const folder = temporaryFolder(t)
  for (const kind of BOOT_KINDS) {
    for (const [index, { path, content }] of bootFiles(
      kind === 'dm-mod.create' ? { ...PLAN, mapperMajor: 253 } : PLAN,
      kind,
    ).entries()) {
      if (typeof content !== 'string' || !content.startsWith('#!')) continue
      const file = join(folder, `${kind}-${index}`)
      writeFileSync(file, content)
      for (const [program = '', ...args] of checkers(content)) {
        if (!existsSync(`/usr/bin/${program}`) && !existsSync(`/bin/${program}`)) continue
        const { status, stdout, stderr } = spawnSync(program, [...args, file], { encoding: 'utf8' })
        t.equal(status, 0, `${program}: ${path}\n${stdout}${stderr}`)
      }
    }
  }
  t.end()
})

/** What dmsetup does to sysfs, and a list of its calls. */
const DMSETUP = `#!/bin/sh
set -e
. "\${0%/*}/../../paths"
[ ! -e "$root/refuse-$2" ] || { echo "device-mapper: create ioctl on $2 failed" >&2; exit 1; }
count=$(ls "$root/sys/class/block" | grep -c '^dm-' || :)
mkdir -p "$root/sys/class/block/dm-$count/dm"
echo "$4" >"$root/sys/class/block/dm-$count/dm/uuid"
echo "253:$count" >"$root/sys/class/block/dm-$count/dev"
for last; do :; done
{ echo "$*" | sed "s|$last||"; cat "$last"; } >>"$root/calls"
`

interface Machine {
  root: string
  run: () => { calls: string; messages: string }
}

/** A machine with one disk, whose files are those of a plan. */
function machine(t: Test, shell: string[], plan: BootPlan): Machine {
  const root = temporaryFolder(t)
  const write = (path: string, content: string | Uint8Array, mode = 0o644): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), content, { mode })
  }
  for (const { path, content, mode } of bootFiles(plan, 'systemd')) {
    const moved = typeof content === 'string' ? relocated(content, root) : content
    write(path, moved, mode)
  }
  write('etc/dmloop/paths', `root=${root}\n`)
  write('etc/dmloop/boot/bin/dmsetup', DMSETUP, 0o755)
  write('etc/dmloop/boot/bin/blkid', `#!/bin/sh\ncat ${root}/blkid\n`, 0o755)
  write('blkid', `${root}/dev/sda1: UUID="0-0" PARTUUID="11111111-01"\n`)
  write('sys/class/block/sda1/size', '2048\n')
  write('sys/class/block/sda1/dev', '8:1\n')
  write('sys/class/block/sda1/ro', '0\n')
  const disk = Buffer.alloc(2048 * 512)
  BLOCK.copy(disk, 128 * 512)
  write('dev/sda1', disk)
  write('dev/kmsg', '')
  mkdirSync(join(root, 'run'))
  symlinkSync('/dev/null', join(root, 'dev/null'))
  const run = (): { calls: string; messages: string } => {
    write('calls', '')
    write('messages', '')
    const [program = '', ...args] = shell
    const env = { PATH: process.env.PATH, DMLOOP_WAIT: '0' }
    execFileSync(program, [...args, join(root, 'etc/dmloop/boot/map')], { env })
    const read = (path: string): string => readFileSync(join(root, path), 'utf8')
    return { calls: read('calls'), messages: read('messages').replace(/^<6>.*\n/m, '') }
  }
  return { root, run }
}

const relocated = (script: string, root: string): string =>
  script
    .replaceAll('>/dev/kmsg', `>>${root}/messages`)
    .replaceAll(/\/(dev|sys|run)\//g, `${root}/$1/`)

const [DISK] = PLAN.disks as [BootPlan['disks'][number]]
/** Without the volume, which is missing on the machine. */
const ONE_DISK: BootPlan = { ...PLAN, disks: [DISK] }
const UUID = `DMLOOP-253-0-${HANDLE}`
const WRAP_CALL = `create host --uuid DMLOOP_WRAP-8-1 --verifyudev \n0 2048 linear 8:1 0\n`
const IMAGE_CALLS =
  `create disk1 --uuid ${UUID} --verifyudev \n0 8 linear 8:1 64\n8 16 linear 8:1 128\n` +
  `create disk1p1 --uuid part1-${UUID} --verifyudev \n0 8 linear 253:1 8\n`

for (const shell of [['dash'], ['busybox', 'sh']]) {
  await t.test(shell.join(' '), async (t) => {
    if (spawnSync(shell[0] ?? '', ['-c', ':']).error) {
      t.comment(`${shell[0]} is not on this machine`)
      t.end()
      return
    }

    await t.test('makes the devices once', (t) => {
      const { run } = machine(t, shell, ONE_DISK)
      t.strictSame(run(), { calls: WRAP_CALL + IMAGE_CALLS, messages: '' })
      t.strictSame(run(), { calls: '', messages: '' }, 'a second run changes nothing')
      t.end()
    })

    await t.test('finds a disk by the UUID of its filesystem, and not its wrapper', (t) => {
      const byUuid: BootPlan = { ...PLAN, disks: [{ ...DISK, by: 'UUID', value: '0-0' }] }
      const { root, run } = machine(t, shell, byUuid)
      t.equal(run().calls, WRAP_CALL + IMAGE_CALLS)
      mkdirSync(join(root, 'dev/disk/by-uuid'), { recursive: true })
      writeFileSync(join(root, 'dev/dm-0'), '')
      writeFileSync(join(root, 'sys/class/block/dm-0/size'), '2048\n')
      symlinkSync('../../dm-0', join(root, 'dev/disk/by-uuid/0-0'))
      t.strictSame(run(), { calls: '', messages: '' })
      t.end()
    })

    await t.test('finds a logical volume; its images need no wrapper', (t) => {
      const [, volume] = PLAN.disks as [unknown, BootPlan['disks'][number]]
      const plan: BootPlan = {
        disks: [DISK, volume],
        wrappers: [],
        devices: [{ ...IMAGE, filesystem: { disk: 1 }, partitions: [], readOnly: true }],
      }
      const { root, run } = machine(t, shell, plan)
      mkdirSync(join(root, 'sys/class/block/dm-0/dm'), { recursive: true })
      writeFileSync(
        join(root, 'sys/class/block/dm-0/dm/uuid'),
        'LVM-groupabcdef0123456789abcdef0123456789\n',
      )
      writeFileSync(join(root, 'sys/class/block/dm-0/size'), '8192\n')
      writeFileSync(join(root, 'sys/class/block/dm-0/dev'), '253:0\n')
      writeFileSync(join(root, 'dev/dm-0'), '')
      t.match(run().calls, `create disk1 --uuid ${UUID} --verifyudev --readonly \n0 8 linear 8:1`)
      t.end()
    })

    await t.test('leaves out an image whose block differs', (t) => {
      const { root, run } = machine(t, shell, ONE_DISK)
      const disk = readFileSync(join(root, 'dev/sda1'))
      disk.write('x', 128 * 512 + 4095)
      writeFileSync(join(root, 'dev/sda1'), disk)
      t.strictSame(run(), {
        calls: WRAP_CALL,
        messages: '<3>dmloop: disk1 is not made: the disk has other data where the image was\n',
      })
      t.end()
    })

    await t.test('leaves out what is on a disk that is missing or too small', (t) => {
      const { root, run } = machine(t, shell, ONE_DISK)
      writeFileSync(join(root, 'sys/class/block/sda1/size'), '2047\n')
      t.match(run(), { calls: '', messages: /sda1 has 2047 sectors and should have 2048/ })
      writeFileSync(join(root, 'blkid'), '')
      t.match(run(), { calls: '', messages: /no disk with PARTUUID 11111111-01: it is not there/ })
      t.match(run().messages, /host is not made(.|\n)*disk1 is not made/)
      t.end()
    })

    await t.test('goes on after a failure of dmsetup', (t) => {
      const { root, run } = machine(t, shell, ONE_DISK)
      writeFileSync(join(root, 'refuse-disk1'), '')
      t.strictSame(run(), {
        calls: WRAP_CALL,
        messages: '<3>dmloop: disk1 is not made: device-mapper: create ioctl on disk1 failed\n',
      })
      t.end()
    })

    await t.test('makes a read-only wrapper of a read-only disk', (t) => {
      const { root, run } = machine(t, shell, ONE_DISK)
      writeFileSync(join(root, 'sys/class/block/sda1/ro'), '1\n')
      t.match(run().calls, 'create host --uuid DMLOOP_WRAP-8-1 --verifyudev --readonly')
      t.end()
    })
    t.end()
  })
}
