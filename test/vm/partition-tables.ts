// node partition-tables.js [all]: the partitions of images with all kinds of tables are those that kpartx and the
// loop driver find: of every third table, with udev others than without, or of all.
import t from 'tap'
import { mapFile, openMapping, type MappedDevice } from 'dmloop'
import { fileState, makeHost, oneSegment, sh, spread, UDEV } from './lab.js'
import {
  byDriver,
  byKpartx,
  compareBytes,
  entry,
  left,
  makeImage,
  rowsOf,
  settle,
  sfdisk,
  upTo,
  type Table,
} from './partition-images.js'

const OK = { ok: true, problems: [] }
const host = makeHost('ext4', oneSegment(), { name: 'host' })
const nothing = left()
const clean = (): void => {
  t.strictSame(left(), nothing, 'nothing is left')
}

const TABLES: Record<string, Table> = {
  'sfdisk: GPT': {
    make: sfdisk('label: gpt', 'size=1M, name="root"', 'size=2M, type=swap', 'size=512K'),
    numbers: [1, 2, 3],
  },
  'sgdisk: GPT, 40 partitions': {
    make: `sgdisk -a 8 ${upTo(40)
      .map((number) => `-n ${number}:0:+64K`)
      .join(' ')} $DISK`,
    numbers: upTo(40),
  },
  'sfdisk: GPT without partitions': { make: sfdisk('label: gpt'), numbers: [] },
  'sfdisk: MBR, four': {
    make: sfdisk('label: dos', 'size=1M', 'size=1M, type=82', 'size=1M, bootable', 'size=1M'),
    numbers: [1, 2, 3, 4],
  },
  'sfdisk: MBR with logical ones': {
    size: 16,
    make: sfdisk(
      ...['label: dos', '1: size=1M', '2: size=9M, type=5', '3: size=512K'],
      ...[5, 6, 7].map((number) => `${number}: size=512K`),
    ),
    numbers: [1, 2, 3, 5, 6, 7],
  },
  'sfdisk: MBR, the extended one first': {
    make: sfdisk(
      'label: dos',
      '1: start=2048, size=5M, type=f',
      '5: size=512K',
      '6: size=1M',
      '2: size=1M',
    ),
    numbers: [1, 2, 5, 6],
  },
  'sfdisk: MBR, at the end and with a gap': {
    make: sfdisk('label: dos', '3: start=2048, size=2048', '4: start=6144, size=10240'),
    numbers: [3, 4],
  },
  'sfdisk: MBR, odd sectors': {
    make: sfdisk('label: dos', 'grain: 512', 'start=63, size=1001', 'start=1065, size=7'),
    numbers: [1, 2],
  },
  'sfdisk: MBR without partitions': { make: sfdisk('label: dos'), numbers: [] },
  'sgdisk: GPT, numbers with gaps': {
    make: 'sgdisk -n 2:0:+1M -n 7:0:+512K -n 100:0:+1M -c 7:data $DISK',
    numbers: [2, 7, 100],
  },
  'sgdisk: GPT, a number beyond those of the kernel': {
    make: 'sgdisk -S 300 -n 1:0:+1M -n 255:0:+1M -n 300:0:+1M $DISK',
    numbers: [1, 255],
    problems: [/partition 300 has a number above 255/],
  },
  'sgdisk: GPT, not in the order of the disk': {
    make: 'sgdisk -n 1:8192:+1M -n 2:2048:+1M -t 2:ef00 $DISK',
    numbers: [1, 2],
  },
  'sgdisk: GPT and a hybrid MBR': {
    make: 'sgdisk -n 1:0:+1M -n 2:0:+1M -h 1:EE $DISK',
    numbers: [1, 2],
  },
  'sgdisk: GPT with a damaged primary header': {
    make: 'sgdisk -n 1:0:+1M -n 2:0:+2M $DISK',
    damage: 'dd if=/dev/zero of=$FILE bs=512 seek=1 count=1 conv=notrunc status=none',
    // Only with the kernel's parameter gpt.
    driver: false,
    numbers: [1, 2],
  },
  'sgdisk: GPT with damaged entries': {
    make: 'sgdisk -n 1:0:+1M -n 2:0:+2M $DISK',
    damage: 'dd if=/dev/zero of=$FILE bs=512 seek=2 count=2 conv=notrunc status=none',
    driver: false,
    numbers: [1, 2],
  },
  'sgdisk: GPT, both damaged': {
    make: 'sgdisk -n 1:0:+1M $DISK',
    damage:
      'dd if=/dev/zero of=$FILE bs=512 seek=1 count=1 conv=notrunc status=none; dd if=/dev/zero of=$FILE bs=512 seek=16383 count=1 conv=notrunc status=none',
    numbers: [],
    problems: [/marked as a disk with a GPT/],
  },
  'sgdisk: GPT, cut off': {
    make: 'sgdisk -n 1:0:+1M -n 2:0:+4M $DISK',
    damage: 'truncate -s 4M $FILE',
    // It does not look whether the table is for a disk of this size.
    kpartx: false,
    numbers: [],
    problems: [/marked as a disk with a GPT/],
  },
  'parted: GPT': {
    make: 'parted -s $DISK mklabel gpt mkpart one ext4 1MiB 3MiB mkpart two 3MiB 100%',
    numbers: [1, 2],
  },
  'parted: MBR with logical ones': {
    make: `parted -s $DISK mklabel msdos mkpart primary 1MiB 2MiB mkpart extended 2MiB 7MiB \
             mkpart logical 3MiB 4MiB mkpart logical 5MiB 6MiB`,
    numbers: [1, 2, 5, 6],
  },
  'parted: GPT of 4096-byte sectors': {
    size: 16,
    sector: 4096,
    make: 'parted -s $DISK mklabel gpt mkpart one 1MiB 3MiB mkpart two 3MiB 100%',
    numbers: [1, 2],
  },
  'sgdisk: GPT of 4096-byte sectors': {
    size: 16,
    sector: 4096,
    make: 'sgdisk -n 1:0:+1M -n 2:0:+2M -c 2:data $DISK',
    numbers: [1, 2],
  },
  'sfdisk: GPT of 4096-byte sectors with a damaged primary header': {
    size: 16,
    sector: 4096,
    make: sfdisk('label: gpt', 'size=1M', 'size=2M'),
    damage: 'dd if=/dev/zero of=$FILE bs=4096 seek=1 count=1 conv=notrunc status=none',
    driver: false,
    numbers: [1, 2],
  },
  'MBR, overlapping': {
    make: sfdisk('label: dos', 'size=2M', 'size=2M'),
    damage: entry(1, 0x83, 3072, 4096),
    numbers: [1, 2],
  },
  'MBR, one past the end': {
    make: sfdisk('label: dos', 'size=1M', 'size=1M', 'size=1M'),
    damage: entry(1, 0x83, 8192, 100_000),
    driver: false,
    kpartx: false,
    numbers: [1, 3],
    problems: [/partition 2 reaches past the end, at 8388608 \(bytes 4194304 to 55394303\)/],
  },
  'MBR, one starts past the end': {
    make: sfdisk('label: dos', 'size=1M', 'size=1M'),
    damage: entry(0, 0x83, 20_000, 2048),
    kpartx: false,
    numbers: [2],
    problems: [/partition 1 reaches past the end/],
  },
  'no table': { make: 'mkfs.ext4 -qF -E nodiscard $DISK', numbers: [] },
}

const file = `${host.path}/disk`

/** Names, UUIDs and tables of the partition devices of a mapping, as device-mapper has them. */
const inKernel = (device: MappedDevice): string[] =>
  sh('dmsetup info -c --noheadings --separator " " -o name,uuid')
    .split('\n')
    .filter((line) => / part\d+-/.test(line) && line.endsWith(device.uuid))
    .map((line) => {
      const [name = ''] = line.split(' ')
      const number = `${device.major}:${device.minor}`
      return `${line} ${sh(`dmsetup table ${name}`).trim().replace(number, 'DEVICE')}`
    })
    .sort()

const isTried = (_: unknown, index: number): boolean =>
  process.argv[2] === 'all' || index % 6 === Number(UDEV)

for (const [name, table] of spread(Object.entries(TABLES)).filter(isTried)) {
  await t.test(name, async (t) => {
    makeImage(file, table)
    const { sector = 512, numbers, problems = [] } = table
    const before = fileState(file)
    const expected = byKpartx(file, sector)
    if (table.kpartx !== false) {
      t.strictSame(
        expected.map(([number]) => number),
        numbers,
        'kpartx finds what was made',
      )
    }
    const rows = expected.filter(([number]) => numbers.includes(number))
    if (table.driver !== false) t.strictSame(byDriver(file, sector), rows, 'and so does the driver')

    const device = await mapFile(file, { partitions: true })
    t.strictSame(rowsOf(device), rows, 'linear')
    t.equal(device.partitionProblems.length, problems.length)
    for (const [index, message] of problems.entries()) {
      t.match(device.partitionProblems[index], { code: 'DMLOOP_BAD_PARTITION', message })
    }
    for (const { number, path, type } of device.partitions) {
      t.equal(path, `/dev/mapper/disk${number}`)
      t.match(type, /^(0x[0-9a-f]+|[0-9a-f-]{36})$/)
    }
    compareBytes(t, device, file)
    const again = await openMapping(file)
    t.strictSame(again.partitions, device.partitions, 'another object knows the same')
    t.strictSame(again.partitionProblems, device.partitionProblems)
    t.strictSame(await again.verify({ content: 'full' }), OK)
    const made = inKernel(device)
    await device.unmap()
    clean()

    // On this disk of 512-byte sectors it finds nothing that was made for others.
    if (sector === 512 && table.kpartx !== false) {
      const plain = await mapFile(file)
      t.strictSame(plain.partitions, [])
      sh(`kpartx -s -a ${plain.path}`)
      settle()
      t.strictSame(inKernel(plain), made, 'kpartx makes the same')
      t.strictSame(rowsOf(await openMapping('disk')), rows)
      await plain.unmap()
      clean()
    }

    const loop = await mapFile(file, { backend: 'loop', partitions: true })
    const cut = name === 'MBR, one past the end' ? byDriver(file, sector) : rows
    t.strictSame(rowsOf(loop), cut, 'on a loop device')
    t.equal(loop.partitionProblems.length, problems.length)
    for (const { path, number } of loop.partitions) t.equal(path, `${loop.path}p${number}`)
    compareBytes(t, loop, file)
    t.strictSame((await openMapping(file)).partitions, loop.partitions)
    await loop.unmap()
    clean()
    t.equal(fileState(file), before)
  })
}

host.remove()
