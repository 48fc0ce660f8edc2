// The plan, the kernel's table and the field's own tools agree.
import t from 'tap'
import { mapFile, openMapping, planFile, type Extent } from 'dmloop'
import { fragmentedFile, makeHost, manySegments, oneSegment, sh, sha256 } from './lab.js'

type Run = Pick<Extent, 'logical' | 'physical' | 'length'>

/** Neighbours joined, and what lies past the end of the file cut off. */
function normalise(runs: readonly Run[], size: number): Run[] {
  const joined: Run[] = []
  for (const { logical, physical, length } of runs) {
    const last = joined.at(-1)
    if (
      last &&
      last.logical + last.length === logical &&
      last.physical + last.length === physical
    ) {
      last.length += length
    } else {
      joined.push({ logical, physical, length })
    }
  }
  const end = joined.at(-1)
  if (end) end.length = Math.min(end.length, size - end.logical)
  return joined
}

/** "   0:        0..    8191:      12289..     20480:   8192: …", in blocks of -b. */
const filefrag = (file: string): Run[] =>
  [
    ...sh(`filefrag -b512 -v ${file}`).matchAll(
      /^ *\d+: +(\d+)\.\. *\d+: +(\d+)\.\. *\d+: +(\d+):/gm,
    ),
  ].map(([, logical, physical, length]) => ({
    logical: Number(logical) * 512,
    physical: Number(physical) * 512,
    length: Number(length) * 512,
  }))

/** "	0: [0..16383]: 24578..40961", in sectors. */
const xfsFiemap = (file: string): Run[] =>
  [...sh(`xfs_io -r -c fiemap ${file}`).matchAll(/\[(\d+)\.\.(\d+)\]: (\d+)\.\.\d+/g)].map(
    ([, first, last, physical]) => ({
      logical: Number(first) * 512,
      physical: Number(physical) * 512,
      length: (Number(last) - Number(first) + 1) * 512,
    }),
  )

for (const filesystem of ['ext4', 'xfs']) {
  await t.test(filesystem, async (t) => {
    // mkfs.xfs wants to be forced where the seams cross the disk's blocks.
    const mkfs = filesystem === 'xfs' ? '-f' : ''
    const host = makeHost(filesystem, manySegments(7, 3), { name: 'host', mkfs })
    const shapes: [bytes: number, extents: number][] = [
      [8 << 20, 1500],
      [3 << 20, 1],
      [1 << 20, 60],
      [70_144, 5],
    ]
    for (const [index, [bytes, extents]] of shapes.entries()) {
      const file = `${host.path}/image-${index}`
      fragmentedFile(file, bytes, extents, index)
      const plan = await planFile(file)
      const label = `${bytes} bytes, ${plan.extents.length} extents`

      const ours = normalise([...plan.extents], plan.size)
      t.ok(ours.length > 0, `${label}: there are extents`)
      t.strictSame(
        [...plan.extents].map(({ flags: _, ...run }) => run),
        ours,
        `${label}: merged`,
      )
      t.strictSame(ours, normalise(filefrag(file), plan.size), `${label}: as filefrag -v`)
      t.strictSame(ours, normalise(xfsFiemap(file), plan.size), `${label}: as xfs_io fiemap`)

      sh('dmsetup create by-hand', plan.toTable())
      t.equal(
        await sha256('/dev/mapper/by-hand', plan.size),
        await sha256(file, plan.size),
        `${label}: dmsetup create makes the same device of toTable()`,
      )
      sh('dmsetup remove --retry by-hand')

      const device = await mapFile(file, { name: 'ours' })
      t.equal(sh('dmsetup table ours'), plan.toTable(), `${label}: dmsetup table is toTable()`)
      t.equal(device.segmentCount, plan.segments.length)
      t.equal(Number(sh('blockdev --getsize64 /dev/mapper/ours')), plan.size)
      await device.unmap()
    }
    host.remove()
  })
}

await t.test('a range of a file', async (t) => {
  const host = makeHost('ext4', oneSegment(), { name: 'host' })
  const file = `${host.path}/image`
  fragmentedFile(file, 4 << 20, 300, 9)
  for (const [offset, length] of [
    [4096, 8192],
    [512, 1024],
    [1 << 20, 3 << 20],
  ] as const) {
    await using device = await mapFile(file, { offset, length })
    t.equal(device.size, length)
    t.equal(
      await sha256(device.path, length),
      sh(`tail -c +${offset + 1} ${file} | head -c ${length} | sha256sum`).slice(0, 64),
      `${length} bytes from ${offset}`,
    )
  }
  await using rest = await mapFile(file, { offset: 1 << 20 })
  t.equal(rest.size, 3 << 20, 'without a length, to the end')
  await rest.unmap()
  host.remove()
})

await t.test('several files are one device, end to end', async (t) => {
  const host = makeHost('ext4', oneSegment(0), { name: 'host' })
  const other = makeHost('xfs', oneSegment(1), { name: 'other' })
  const files = [`${host.path}/a`, `${other.path}/b`, `${host.path}/c`]
  const sizes = [1 << 20, 2 << 20, 99_328]
  files.forEach((file, index) => {
    fragmentedFile(file, sizes[index] ?? 0, 40, index)
  })
  const sum = sh(`cat ${files.join(' ')} | sha256sum`).slice(0, 64)

  const device = await mapFile(files)
  t.equal(device.size, (3 << 20) + 99_328)
  t.strictSame(device.files, files)
  t.equal(await sha256(device.path, device.size), sum)
  t.strictSame(await device.verify(), { ok: true, problems: [] })
  t.equal((await openMapping(files[1] ?? '')).name, device.name, 'found by any of its files')
  for (const file of files) {
    await t.rejects(mapFile(file, { name: 'twin' }), { code: 'DMLOOP_ALREADY_MAPPED' }, file)
  }
  await device.unmap()
  await t.rejects(mapFile([files[0] ?? '', files[0] ?? '']), {
    code: 'DMLOOP_ALREADY_MAPPED',
    message: /named twice/,
  })

  // A range that begins in the second file and ends in the third.
  await using part = await mapFile(files, { offset: 2 << 20, length: (1 << 20) + 4096 })
  t.equal(
    await sha256(part.path, part.size),
    sh(
      `cat ${files.join(' ')} | tail -c +${(2 << 20) + 1} | head -c ${part.size} | sha256sum`,
    ).slice(0, 64),
  )
  await part.unmap()
  const { extents } = await planFile(files, { offset: 1 << 20 })
  t.equal(extents.at(0)?.logical, 1 << 20, 'extents count from the first file')
  const ragged = `${host.path}/ragged`
  fragmentedFile(ragged, 5000, 1, 1)
  await t.rejects(mapFile([ragged, ...files]), { code: 'DMLOOP_UNALIGNED', file: ragged })
  host.remove()
  other.remove()
})

await t.test('a device grows with its file', async (t) => {
  const host = makeHost('ext4', oneSegment(), { name: 'host' })
  const file = `${host.path}/image`
  sh(`head -c 1M /dev/urandom >${file}`)
  const device = await mapFile(file, { guard: 'none' })
  await device.extend()
  t.equal(device.size, 1 << 20, 'nothing to extend by')

  sh(`head -c 3M /dev/urandom >>${file}`)
  await device.extend()
  t.equal(device.size, 4 << 20)
  t.equal(Number(sh(`blockdev --getsize64 ${device.path}`)), 4 << 20)
  t.equal(await sha256(device.path, 4 << 20), await sha256(file, 4 << 20))
  t.strictSame(await device.verify(), { ok: true, problems: [] })

  sh(`truncate -s 8M ${file}`)
  await t.rejects(device.extend(), { code: 'DMLOOP_HOLE' }, 'into a hole')
  t.equal(Number(sh(`blockdev --getsize64 ${device.path}`)), 4 << 20, 'the device stays')
  t.strictSame(await device.verify(), { ok: true, problems: [] })
  t.match(sh('dmsetup info image'), /Tables present: +LIVE\n/, 'no inactive table is left')
  // Somebody else has it unmapped and mapped again: an old object does not touch the new one.
  const found = await openMapping(file)
  sh(`truncate -s 4M ${file}`)
  await found.unmap()
  const anew = await mapFile(file, { guard: 'none', length: 1 << 20 })
  await t.rejects(device.extend(), { code: 'DMLOOP_FILE_CHANGED' }, 'not the old object’s any more')
  t.match(await device.verify(), { ok: false })
  t.equal(Number(sh(`blockdev --getsize64 ${anew.path}`)), 1 << 20)
  await device.unmap()
  t.strictSame(await anew.verify({ content: 'full' }), { ok: true, problems: [] })
  await anew.unmap()
  host.remove()
})

await t.test('verify() finds what has changed', async (t) => {
  const host = makeHost('ext4', oneSegment(), { name: 'host' })
  const file = `${host.path}/image`
  fragmentedFile(file, 1 << 20, 30, 1)
  const device = await mapFile(file, { guard: 'none' })
  sh(`fallocate -p -o 64K -l 8K ${file}`)
  t.match(await device.verify(), {
    ok: false,
    problems: [{ code: 'DMLOOP_HOLE', file, offset: 65536, length: 8192 }],
  })
  // Taking a piece out moves every block after it; what is appended makes the file whole again.
  sh(`fallocate -c -o 64K -l 8K ${file}; head -c 8K /dev/urandom >>${file}; sync ${file}`)
  t.match(await device.verify(), {
    ok: false,
    problems: [{ code: 'DMLOOP_FILE_CHANGED', file, offset: 65536 }],
  })

  // Made while the first is there, or it might take the place of that.
  fragmentedFile(`${file}.other`, 1 << 20, 3, 2)
  sh(`rm ${file}`)
  t.match(await device.verify(), { ok: false, problems: [{ code: 'DMLOOP_FILE_CHANGED', file }] })
  sh(`mv ${file}.other ${file}`)
  t.match(await device.verify(), { ok: false }, 'another file of the same name')
  sh(`rm ${file}`)
  await device.unmap()
  host.remove()
})
