// Boots Debian 12 by the files of bootFiles: npm run test:boot [-- shortest]. Needs root, for debootstrap and chroot.
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { bootFiles, type BootPlan } from '#lib/store/boot-files.js'
import { debian, makeDisk, makeInitramfs } from './debian.js'
import { boot, type Booted } from './machine.js'
import { parsePlan } from './plan-file.js'

const shortest = process.argv.includes('shortest')

t.setTimeout(0)
const tree = debian()
const work = mkdtempSync(join(tmpdir(), 'dmloop-boot-'))
t.teardown(() => rmSync(work, { recursive: true, force: true }))
const share = join(work, 'share')
mkdirSync(share)
const machine = { tree, share, log: join(work, 'console') }

type Kind = 'initramfs-tools' | 'dracut'

function initramfs(kind: Kind, name: string, plan: BootPlan): string {
  const target = join(work, `${name}-${kind}`)
  makeInitramfs(tree, kind, bootFiles(plan, kind), target)
  return target
}

const savedPlan = (name: string): BootPlan =>
  parsePlan(readFileSync(join(share, `${name}.json`), 'utf8'))

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
const size = 510 * 2 ** 20
const onRoot = { root: '/dev/mapper/root', disks: [rootDisk] }

await t.test('the root filesystem on a partition, wrapped', (t) => {
  const disks: BootPlan['disks'] = [{ by: 'PARTUUID', value: partUuid, size }]
  const wrapped = { disks, wrappers: [{ name: 'root', disk: 0 }], devices: [] }
  const first = initramfs('initramfs-tools', 'first', wrapped)
  passes(
    t,
    'the wrapper alone',
    boot(machine, { ...onRoot, initramfs: first, step: ['mapOnRoot', partUuid] }),
  )
  const plan = savedPlan('root')
  const second = initramfs('initramfs-tools', 'second', plan)
  const start = (name: string, step: string, image = second): Booted =>
    passes(t, name, boot(machine, { ...onRoot, initramfs: image, step: [step] }))
  if (!shortest) {
    start('initramfs-tools', 'checkRoot')
    start('dracut', 'checkRoot', initramfs('dracut', 'third', plan))
  }
  start('initramfs-tools, unmapped', 'unmapRoot')
  if (!shortest) {
    const { console } = start('a block that differs', 'checkSkipped')
    t.match(console, 'dmloop: disk1 is not made: the disk has other data where the image was')
  }
  t.end()
})

if (!shortest) {
  const dataDisk = join(work, 'data.disk')
  const data = makeDisk(dataDisk, 700, { partition: true })
  const seed = join(work, 'seed')
  makeDisk(seed, 512, { tree })
  const both = { ...onRoot, disks: [rootDisk, dataDisk] }

  await t.test('another filesystem, wrapped by systemd', (t) => {
    const image = join(work, 'first-initramfs-tools')
    boot(machine, {
      ...both,
      disks: [rootDisk, dataDisk, seed],
      initramfs: image,
      step: ['mapOnData', data.partUuid, '/dev/vdc'],
    })
    passes(t, 'first boot', boot(machine, { ...both, initramfs: image, step: ['checkData'] }))
    passes(t, 'second boot', boot(machine, { ...both, initramfs: image, step: ['checkData'] }))
    t.end()
  })

  await t.test('the root filesystem in an image', (t) => {
    const plan = savedPlan('system')
    const kinds: Kind[] = ['initramfs-tools', 'dracut', 'initramfs-tools']
    for (const [index, kind] of kinds.entries()) {
      const image = initramfs(kind, `system-${index}`, plan)
      const step = ['checkSystem', String(index + 1)]
      const started = { initramfs: image, root: '/dev/mapper/system', disks: [dataDisk], step }
      passes(t, kind, boot(machine, started))
    }
    t.end()
  })

  await t.test('the images on the other filesystem unmapped', (t) => {
    const image = join(work, 'first-initramfs-tools')
    passes(t, 'unmapped', boot(machine, { ...both, initramfs: image, step: ['unmapData'] }))
    t.end()
  })
}
