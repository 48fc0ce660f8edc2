// What is proven of a mapping before it is handed over: nobody else has its blocks, and file and device
// show the same bytes.
import t from 'tap'
import { mapFile, openMapping, releaseFile } from 'dmloop'
import { native } from '#lib/kernel/native.js'
import { fragmentedFile, makeHost, randomFile, sh } from './lab.js'

await t.test(
  'blocks that are mapped are known by whatever number their filesystem has',
  async (t) => {
    const table = '0 131072 linear 1:1 0\n'
    const first = makeHost('ext4', table, { name: 'volume' })
    const file = `${first.path}/image`
    fragmentedFile(file, 4 << 20, 50, 4)
    const device = await mapFile(file)
    const blocks = sh(`dmsetup table ${device.name}`)
    // Our device holds the disk and not the volume: it can be taken away and come back as another.
    first.remove()
    sh('dmsetup create other --table "0 8 zero"; dmsetup create volume', table)
    sh(`mount /dev/mapper/volume ${first.path}`)
    await t.rejects(mapFile(file, { name: 'twin' }), {
      code: 'DMLOOP_ALREADY_MAPPED',
      message: /image/,
    })
    await t.rejects(releaseFile(file), { code: 'DMLOOP_ALREADY_MAPPED', message: /image/ })
    const loop = mapFile(file, { backend: 'loop', readOnly: true, name: 'twin' })
    await t.rejects(loop, { code: 'DMLOOP_ALREADY_MAPPED' })
    t.equal(sh(`dmsetup table ${device.name}`), blocks)
    t.match(sh(`lsattr ${file}`), /^-+i/, 'the guard of the first mapping stays')
    await device.unmap()
    const again = await mapFile(file, { name: 'twin' })
    t.equal(sh('dmsetup table twin'), blocks, 'the same blocks, once nobody has them')
    await again.unmap()
    t.notMatch(sh(`lsattr ${file}`), /^-+i/)
    first.remove()
    sh('dmsetup remove --retry other')
  },
)

await t.test('what a device grows by is looked at as well', async (t) => {
  const HALF = 2 << 20
  const table = '0 131072 linear 1:1 0\n'
  const first = makeHost('ext2', table, { name: 'volume' })
  const file = `${first.path}/image`
  fragmentedFile(file, 2 * HALF, 50, 4)
  sh('sync')
  const device = await mapFile(file, { length: HALF, guard: 'none' })
  // The same volume once more, under another number: the other half of the file is mapped from there.
  sh('dmsetup create again; mkdir /tmp/again; mount -o ro /dev/mapper/again /tmp/again', table)
  const other = await mapFile('/tmp/again/image', { offset: HALF, readOnly: true, name: 'other' })
  await t.rejects(device.extend(), { code: 'DMLOOP_ALREADY_MAPPED', message: /mapper\/other/ })
  t.equal(device.size, HALF, 'the device stays as it was')
  t.strictSame(await device.verify({ content: 'full' }), { ok: true, problems: [] })
  await other.unmap()
  await device.extend()
  t.equal(device.size, 2 * HALF, 'once nobody has them')
  t.strictSame(await device.verify({ content: 'full' }), { ok: true, problems: [] })
  await device.unmap()
  sh('umount /tmp/again; dmsetup remove --retry again')
  first.remove()
})

await t.test('what changes while it is being mapped is found before it goes live', async (t) => {
  const host = makeHost('ext4', '0 131072 linear 1:1 0\n', { name: 'volume' })
  const file = `${host.path}/image`
  const { dmLoad, dmStack } = native
  const CHANGED = { code: 'DMLOOP_FILE_CHANGED', message: /while it was being mapped/ }
  const options = { guard: 'none', verify: 'none' } as const
  try {
    // The file's blocks, after they were read and loaded.
    randomFile(file, 1 << 20)
    native.dmLoad = async (...args) => {
      const loaded = await dmLoad(...args)
      sh(`fallocate -c -o 64K -l 8K ${file}; head -c 8K /dev/urandom >>${file}; sync ${file}`)
      return loaded
    }
    await t.rejects(mapFile(file, options), CHANGED, 'its extents')
    native.dmLoad = dmLoad

    // The underlying layers.
    let loaded = false
    native.dmLoad = async (...args) => {
      loaded = true
      return await dmLoad(...args)
    }
    native.dmStack = async (device) => {
      const answer = await dmStack(device)
      for (const { rows } of loaded && 'value' in answer ? answer.value : []) {
        rows[3] = (rows[3] as number) + 8
      }
      return answer
    }
    await t.rejects(mapFile(file, options), CHANGED, 'the underlying devices')
  } finally {
    Object.assign(native, { dmLoad, dmStack })
  }
  t.equal(sh('dmsetup ls').trim().split('\n').length, 1, 'no device is left')
  await (await mapFile(file, options)).unmap()
  host.remove()
})

await t.test('a filesystem that lies is caught by the content', async (t) => {
  const table = '0 131072 linear 1:0 0\n'
  const liar = makeHost('ext4', table, { name: 'liar' })
  const file = `${liar.path}/image`
  randomFile(file, 8 << 20)
  sh('sync')
  const disk = (): string => sh('dd if=/dev/ram0 bs=1M count=65 status=none | sha256sum')
  // The live table still leads to the data; the one that is read and believed is shifted by a block.
  const before = disk()
  const honest = native.dmStack
  native.dmStack = async (device) => {
    const answer = await honest(device)
    for (const { rows } of 'value' in answer ? answer.value : []) rows[3] = (rows[3] as number) + 8
    return answer
  }
  try {
    for (const verify of ['sample', 'full'] as const) {
      await t.rejects(mapFile(file, { verify }), {
        code: 'DMLOOP_CONTENT_MISMATCH',
        file,
        offset: 0,
      })
    }
    const mapped = await mapFile(file, { verify: 'none' })
    t.match(await mapped.verify(), { ok: true }, 'the extents alone cannot tell')
    t.match(await mapped.verify({ content: 'full' }), {
      ok: false,
      problems: [{ code: 'DMLOOP_CONTENT_MISMATCH' }],
    })
    await mapped.unmap()
  } finally {
    native.dmStack = honest
  }
  t.equal(disk(), before, 'nothing was written')
  const seen: number[] = []
  const device = await mapFile(file, {
    verify: 'full',
    onProgress: ({ done, total = 0 }) => seen.push(done / total),
  })
  t.equal(seen.at(-1), 1, 'progress ends at all of it')
  await (await openMapping(device.name)).unmap()
  liar.remove()
})

await t.test(
  'what is dirty in memory is on the disk before the device is handed over',
  async (t) => {
    const host = makeHost('ext4', '0 131072 linear 1:1 0\n', { name: 'volume' })
    const file = `${host.path}/image`
    randomFile(file, 1 << 20)
    sh('echo 0 >/proc/sys/vm/dirty_writeback_centisecs')
    for (const round of ['allocated before', 'new']) {
      if (round === 'new') sh(`rm ${file}`)
      sh(`head -c 1M /dev/zero | tr '\\0' A | dd of=${file} bs=1M conv=notrunc status=none`)
      // The kernel itself writes the pages back when it sets the immutable flag (ext4_ioctl_setflags), and
      // when a sample reads the file past its cache.
      const device = await mapFile(file, { guard: 'none', verify: 'none' })
      sh(`head -c 1M /dev/zero | tr '\\0' A | cmp - ${device.path}`)
      sh(`head -c 64K /dev/zero | tr '\\0' B | dd of=${device.path} oflag=direct status=none`)
      await device.unmap()
      sh(`head -c 64K /dev/zero | tr '\\0' B | cmp -n 65536 - ${file}`)
      t.pass(`${round}: the device had it, and nothing was written over the device's writes`)
    }
    host.remove()
  },
)
