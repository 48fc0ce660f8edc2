// The examples of whole tasks do what they say.
import { spawnSync, type SpawnSyncReturns } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { createImage } from 'dmloop'
import { deviceNames, leftFiles, makeHost, oneSegment, randomFile, sh } from './lab.js'

const MIB = 1 << 20
const host = makeHost('ext4', oneSegment())

function example(name: string, args: string[], shell = ''): SpawnSyncReturns<string> {
  const path = fileURLToPath(new URL(`../../examples/${name}.js`, import.meta.url))
  const env = { ...process.env, SHELL: '/bin/sh' }
  const options = { input: shell, encoding: 'utf8' as const, env }
  return spawnSync(process.execPath, [path, ...args], options)
}

const nothingLeft = (): void => {
  t.strictSame([deviceNames(), leftFiles()], [[host.name], []], 'nothing is left')
}

await t.test('a disk image is taken apart', async (t) => {
  const image = `${host.path}/disk.img`
  await createImage(image, { size: 64 * MIB })
  sh(
    `sfdisk -q ${image} >/dev/null; sync ${image}`,
    'label: gpt\nsize=8MiB, type=U, name=esp\nsize=32MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root\n',
  )
  // mkfs of the second partition, and a file in it, through the example's own device.
  sh(`dd if=/dev/zero of=/tmp/root bs=1M count=32 status=none; mkfs.ext4 -q /tmp/root
    dd if=/tmp/root of=${image} bs=1M seek=9 conv=notrunc status=none; sync ${image}`)
  mkdirSync('/tmp/root-of-image', { recursive: true })
  const first = example('disk-image', [image, '/tmp/root-of-image'], 'echo hello >file\n')
  t.equal(first.status, 0, first.stderr)
  t.match(first.stdout, /^1: \/dev\/mapper\/disk\.img1, 8 MiB, .* esp$/m)
  t.match(first.stdout, /^\/dev\/mapper\/disk\.img2 is on \/tmp\/root-of-image$/m)
  nothingLeft()
  const second = example('disk-image', [image, '/tmp/root-of-image'], 'cat file\n')
  t.match(second.stdout, /^hello$/m, 'the file in the image is there again')
  nothingLeft()
})

await t.test('an update goes into the other slot', (t) => {
  const directory = `${host.path}/slots`
  mkdirSync(directory)
  const size = 8 * MIB
  const release = (name: string): string[] => {
    const image = `/tmp/${name}.img`
    randomFile(image, size)
    const said = sh(`veritysetup format --hash-offset=${size} ${image} ${image}`)
    const [, rootHash = ''] = /^Root hash:\s+([0-9a-f]+)$/m.exec(said) ?? []
    sh(`truncate -s %4096 ${image}`)
    const sha256 = createHash('sha256').update(readFileSync(image)).digest('hex')
    return [image, sha256, String(size), rootHash]
  }
  const current = (): string => readlinkSync(`${directory}/current`)
  const update = (args: string[]): SpawnSyncReturns<string> =>
    example('ab-update', [directory, ...args])

  const one = update(release('one'))
  t.equal(one.status, 0, one.stderr)
  t.equal(current(), 'a.img')
  const [image = '', sha256 = '', ...rest] = release('two')
  sh(`xz -0 ${image}`)
  const two = update([`${image}.xz`, sha256, ...rest])
  t.equal(two.status, 0, two.stderr)
  t.equal(current(), 'b.img', 'packed, into the other slot')
  const before = readFileSync(`${directory}/b.img`)

  const three = release('three')
  const flipped = readFileSync(three[0] ?? '')
  flipped[5 * MIB] = (flipped[5 * MIB] ?? 0) ^ 1
  writeFileSync(three[0] ?? '', flipped)
  const refused = update(three)
  t.not(refused.status, 0)
  t.match(refused.stderr, /DMLOOP_CHECKSUM_MISMATCH/, 'a flipped bit is noticed by the checksum')
  three[1] = createHash('sha256').update(flipped).digest('hex')
  t.not(update(three).status, 0, 'and, where the checksum is that of it, by dm-verity')
  t.equal(current(), 'b.img', 'the current one stays')
  t.ok(readFileSync(`${directory}/b.img`).equals(before))
  nothingLeft()
  t.end()
})

/**
 * A boot sector that writes itself to the second sector through the BIOS, and has qemu exit with 33: its first
 * 29 bytes are the program, and the disk address packet for interrupt 0x13, function 0x43, follows.
 */
const BOOT_SECTOR =
  '31c08ed88ec0be1d7cb443b000b280cd137207baf400b81000eff4ebfd' + '1000' + '0100' + '007c0000' + '01'

await t.test('a virtual machine has an image as its disk', (t) => {
  const image = `${host.path}/vm.img`
  sh(`truncate -s 4M ${image}`)
  const sector = Buffer.alloc(512)
  sector.write(BOOT_SECTOR, 'hex')
  sector.writeUInt16LE(0xaa55, 510)
  const out = openSync(image, 'r+')
  writeSync(out, sector)
  closeSync(out)
  const debugExit = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=0x04']
  const quiet = ['-display', 'none', '-nodefaults', '-no-reboot', '-m', '64']
  const { status, stderr } = example('vm-disk', [image, ...debugExit, ...quiet])
  t.equal(status, 33, stderr)
  t.ok(readFileSync(image).subarray(512, 1024).equals(sector), 'the file has what it wrote')
  t.ok(existsSync(image))
  nothingLeft()
  t.end()
})

host.remove()
