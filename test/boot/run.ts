// Boots Debian 12 by the files of ImageStore.exportBoot, and by nothing that was made by hand: npm run test:boot
// [-- shortest]. Needs root, for debootstrap and chroot.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { debian, makeDisk, makeInitramfs } from './debian.js'
import type { Kind } from './kinds.js'
import { boot, type Booted } from './machine.js'

const shortest = process.argv.includes('shortest')

t.setTimeout(0)
const tree = debian()
const work = mkdtempSync(join(tmpdir(), 'dmloop-boot-'))
t.teardown(() => rmSync(work, { recursive: true, force: true }))
const share = join(work, 'share')
mkdirSync(share)
const machine = { tree, share, log: join(work, 'console') }

/** An initramfs with boot files that a step has saved, or with none. */
function initramfs(kind: Kind, name?: string): string {
  const target = join(work, `${name ?? 'plain'}-${kind}`)
  const files = name === undefined ? undefined : join(share, `${name}-${kind}.tar`)
  makeInitramfs(tree, kind, files, target)
  return target
}

function passes(t: Test, name: string, booted: Booted): Booted {
  const seconds = booted.added.map((each) => each.toFixed(2)).join(' + ')
  t.ok(
    booted.added.length > 0,
    `${name}: the script took ${seconds} s of ${booted.total.toFixed(1)} s`,
  )
  return booted
}

const rootDisk = join(work, 'root.disk')
const { partUuid } = makeDisk(rootDisk, 512, { tree, partition: true })
const plain = {
  root: `PARTUUID=${partUuid}`,
  disks: [rootDisk],
  initramfs: initramfs('initramfs-tools'),
}
const dataDisk = join(work, 'data.disk')
const data = makeDisk(dataDisk, 700, { partition: true })

/** Another filesystem, from the boot on that makes its wrapper. */
function startData(t: Test, disks: string[], start: typeof plain, ...seed: string[]): void {
  boot(machine, {
    ...start,
    disks: [...disks, ...seed],
    step: ['mapOnData', data.partUuid, ...seed.map(() => '/dev/vdc')],
  })
  passes(t, 'systemd', boot(machine, { ...start, disks, step: ['checkData'] }))
}

if (shortest) {
  await t.test('another filesystem, wrapped by systemd', (t) => {
    startData(t, [rootDisk, dataDisk], plain)
    t.end()
  })
} else {
  boot(machine, { ...plain, step: ['firstWrapper', partUuid] })
  const wrapped = initramfs('initramfs-tools', 'first')
  const onRoot = { root: '/dev/mapper/root', disks: [rootDisk] }

  await t.test('the root filesystem on a partition, wrapped', (t) => {
    const start = (name: string, step: string, image: string): Booted =>
      passes(t, name, boot(machine, { ...onRoot, initramfs: image, step: [step] }))
    start('the wrapper alone', 'mapOnRoot', wrapped)
    const mapped = initramfs('initramfs-tools', 'root')
    start('initramfs-tools', 'checkRoot', mapped)
    start('dracut', 'checkRoot', initramfs('dracut', 'root'))
    start('initramfs-tools, unmapped', 'unmapRoot', mapped)
    const { console } = start('a file that was replaced', 'checkSkipped', mapped)
    t.match(console, 'dmloop: disk1 is not made: the disk has other data where the image was')
    t.end()
  })

  const seed = join(work, 'seed')
  makeDisk(seed, 512, { tree })
  const both = { ...onRoot, initramfs: wrapped, disks: [rootDisk, dataDisk] }

  await t.test('another filesystem, wrapped by systemd', (t) => {
    startData(t, both.disks, both, seed)
    passes(t, 'second boot', boot(machine, { ...both, step: ['checkData'] }))
    t.end()
  })

  await t.test('the root filesystem in an image', (t) => {
    const images = {
      'initramfs-tools': initramfs('initramfs-tools', 'system'),
      dracut: initramfs('dracut', 'system'),
    }
    const kinds: Kind[] = ['initramfs-tools', 'dracut', 'initramfs-tools']
    for (const [index, kind] of kinds.entries()) {
      const step = ['checkSystem', String(index + 1)]
      const root = '/dev/mapper/system'
      passes(t, kind, boot(machine, { initramfs: images[kind], root, disks: [dataDisk], step }))
    }
    t.end()
  })

  await t.test('the images on the other filesystem unmapped', (t) => {
    passes(t, 'unmapped', boot(machine, { ...both, step: ['unmapData'] }))
    t.end()
  })
}
