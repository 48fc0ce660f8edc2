// An image in an image: what is mapped uses the outer mapping, which cannot be removed before it.
import { closeSync, fsyncSync, mkdirSync, openSync, writeSync } from 'node:fs'
import t from 'tap'
import { listMappings, mapFile, planFile, wrapDevice, type MappedDevice } from 'dmloop'
import { deviceNames, fragmentedFile, leftFiles, makeHost, oneSegment, sh, sha256 } from './lab.js'

const OK = { ok: true, problems: [] }

const host = makeHost('ext4', oneSegment(), { name: 'host' })
const devices = deviceNames()

/** An image of random bytes in several pieces; what made it so is gone. */
function makeImage(path: string, megabytes: number): void {
  fragmentedFile(path, megabytes << 20, 10, megabytes)
}

function writeTo(path: string, text: string, at: number): void {
  const fd = openSync(path, 'r+')
  writeSync(fd, Buffer.alloc(8192, text), 0, 8192, at)
  fsyncSync(fd)
  closeSync(fd)
}

/** What a device is called in messages about it. */
const numberOf = ({ major, minor }: MappedDevice): string => `${major}:${minor}`

/** The devices of a table. */
const underlying = ({ name }: MappedDevice): string[] => [
  ...new Set([...sh(`dmsetup table ${name}`).matchAll(/linear (\S+)/g)].map(([, on = '']) => on)),
]

await t.test('a filesystem straight on a mapping holds it', async (t) => {
  makeImage(`${host.path}/outer.img`, 24)
  const outer = await mapFile(`${host.path}/outer.img`)
  sh(`mkfs.ext4 -q ${outer.path}; mkdir -p /tmp/inside; mount ${outer.path} /tmp/inside`)
  makeImage('/tmp/inside/inner.img', 2)
  const refusal = {
    code: 'DMLOOP_DEVICE_CLAIMED',
    message: /ext4 on dm-\d+ "outer.img" .*, and the filesystem, mounted on \/tmp\/inside, holds/,
    remedy: /wrapDevice/,
  }
  await t.rejects(mapFile('/tmp/inside/inner.img'), refusal)
  t.match((await planFile('/tmp/inside/inner.img')).problems, [refusal], 'the plan says the same')
  const loop = await mapFile('/tmp/inside/inner.img', { backend: 'auto', verify: 'full' })
  t.match(loop, { backend: 'loop', fallback: [{ code: 'DMLOOP_DEVICE_CLAIMED' }] }, 'auto works')
  await loop.unmap()
  sh('umount /tmp/inside')
  await outer.unmap()
})

const LAYERS: Record<string, { make: (on: MappedDevice) => Promise<string>; undo: () => unknown }> =
  {
    wrapDevice: {
      make: async ({ path }) => (await wrapDevice(path, { name: 'layer' })).path,
      undo: async () => {
        for (const each of await listMappings()) if (each.name === 'layer') await each.unmap()
      },
    },
    'a linear device': {
      make: (on) => {
        sh('dmsetup create layer', `0 ${on.size / 512} linear ${numberOf(on)} 0\n`)
        return Promise.resolve('/dev/mapper/layer')
      },
      undo: () => sh('dmsetup remove --retry layer'),
    },
    'a partition': {
      make: (on) => {
        // As kpartx makes it.
        const table = `0 ${on.size / 512 - 2048} linear ${numberOf(on)} 2048\n`
        sh(`dmsetup create layer -u part1-${on.uuid}`, table)
        return Promise.resolve('/dev/mapper/layer')
      },
      undo: () => sh('dmsetup remove --retry layer'),
    },
  }

for (const [what, { make, undo }] of Object.entries(LAYERS)) {
  await t.test(`through ${what} it is stored on the mapping`, async (t) => {
    const outer = await mapFile(`${host.path}/outer.img`)
    const layer = await make(outer)
    sh(`mkfs.ext4 -q ${layer}; mount ${layer} /tmp/inside`)
    const file = '/tmp/inside/inner.img'
    makeImage(file, 4)
    const plan = await planFile(file)
    t.strictSame(plan.problems, [])
    const inner = await mapFile(file, { verify: 'full' })
    t.equal(sh(`dmsetup table ${inner.name}`), plan.toTable(), 'as planned')
    t.strictSame(underlying(inner), [numberOf(outer)], 'on the mapping, and not on the disk')
    t.strictSame(await inner.verify({ content: 'full' }), OK)
    t.strictSame(await outer.verify(), OK)
    await t.rejects(outer.unmap({ timeout: 0 }), {
      code: 'DMLOOP_STILL_OPEN',
      message: new RegExp(`the device “${inner.name}”`),
    })

    writeTo(inner.path, what, 1 << 20)
    const written = await sha256(inner.path, inner.size)
    await inner.unmap()
    t.equal(await sha256(file, inner.size), written, 'in the inner file')
    sh('umount /tmp/inside')
    await undo()
    await outer.unmap()
    t.strictSame([deviceNames(), leftFiles()], [devices, []])

    // The host's file alone, mounted by the kernel's own means.
    const offset = what === 'a partition' ? 1 << 20 : 0
    sh(`mount -o loop,ro,offset=${offset} ${host.path}/outer.img /tmp/inside`)
    t.equal(await sha256(file, inner.size), written, 'as the host has it')
    sh('umount /tmp/inside')
  })
}

await t.test('three levels deep', async (t) => {
  const mappings: MappedDevice[] = []
  const wrappers: MappedDevice[] = []
  let at = host.path
  for (const level of [1, 2, 3]) {
    makeImage(`${at}/${level}.img`, 32 >> level)
    const mapping = await mapFile(`${at}/${level}.img`, { verify: 'full' })
    t.strictSame(
      underlying(mapping),
      [mappings[0] ? numberOf(mappings[0]) : '1:0'],
      `level ${level}`,
    )
    mappings.unshift(mapping)
    if (level === 3) break
    const wrapper = await wrapDevice(mapping.path, { name: `level-${level}` })
    wrappers.unshift(wrapper)
    at = `/tmp/level-${level}`
    mkdirSync(at)
    sh(`mkfs.ext4 -q ${wrapper.path}; mount ${wrapper.path} ${at}`)
  }
  const [top] = mappings as [MappedDevice]
  writeTo(top.path, 'three levels', 65536)
  const written = await sha256(top.path, top.size)
  for (const mapping of mappings) t.strictSame(await mapping.verify({ content: 'full' }), OK)
  for (const below of mappings.slice(1)) {
    await t.rejects(below.unmap({ timeout: 0 }), { code: 'DMLOOP_STILL_OPEN' })
  }

  for (const [index, mapping] of mappings.entries()) {
    await mapping.unmap()
    const wrapper = wrappers[index]
    if (!wrapper) continue
    sh(`umount /tmp/${wrapper.name}`)
    await wrapper.unmap()
  }
  t.strictSame([deviceNames(), leftFiles()], [devices, []])
  sh(`mount -o loop,ro ${host.path}/1.img /tmp/level-1`)
  sh('mount -o loop,ro /tmp/level-1/2.img /tmp/level-2')
  t.equal(await sha256('/tmp/level-2/3.img', top.size), written, 'as the host has it')
  sh('umount /tmp/level-2 /tmp/level-1')
})

host.remove()
