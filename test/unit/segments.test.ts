import t from 'tap'
import { ExtentTable, type Extent } from '#lib/plan/extents.js'
import { native, result, type ExtentList, type FilePart, type Layer } from '#lib/kernel/native.js'
import { SegmentTable } from '#lib/kernel/segments.js'

/** Random numbers that are the same in every run. */
function randomNumbers(seed: number): (limit: number) => number {
  let state = seed
  return (limit) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
}

const UNWRITTEN = 0x800
const ZERO = -1
const STRIPED = -3
type Place = [device: number, sector: number]

const pack = (rows: Float64Array): ExtentList => native.packExtents(rows)

/** Where one sector of a device is on the level below, found row by row. */
function placeBelow(layer: Layer, sector: number): Place {
  for (let row = 0; row < layer.rows.length; row += 4) {
    const [start = 0, length = 0, device = 0, offset = 0] = layer.rows.subarray(row, row + 4)
    if (sector < start || sector >= start + length) continue
    if (device === ZERO) return [ZERO, 0]
    if (device === STRIPED) return columnBelow(layer, offset, sector - start)
    return [layer.devices[device] as number, offset + sector - start]
  }
  throw new Error(`sector ${sector} is past the layer`)
}

/** Counts a striped segment off, sector by sector, until it has come to the one asked for. */
function columnBelow(layer: Layer, at: number, sector: number): Place {
  const [chunk = 0, columns = 0, ...places] = (layer.stripes as Float64Array).subarray(at)
  const filled = Array<number>(columns).fill(0)
  for (let column = 0, left = chunk, here = 0; ; here++) {
    if (here === sector) {
      const [device = 0, offset = 0] = places.slice(2 * column)
      return [layer.devices[device] as number, offset + (filled[column] as number)]
    }
    filled[column] = (filled[column] as number) + 1
    if (--left === 0) {
      column = (column + 1) % columns
      left = chunk
    }
  }
}

/** Where one sector of a mapped file lies at the bottom, without any of the native half's ways. */
function bruteForce(
  extents: Float64Array,
  offset: number,
  sector: number,
  levels: Layer[][],
): Place {
  let place: Place = [ZERO, 0]
  for (let row = 0; row < extents.length; row += 4) {
    const [logical = 0, physical = 0, length = 0, flags = 0] = extents.subarray(row, row + 4)
    const byte = offset + sector * 512
    if (byte < logical || byte >= logical + length || (flags & UNWRITTEN) !== 0) continue
    place = [0, (physical + byte - logical) / 512]
  }
  for (const level of levels) {
    if (place[0] !== ZERO) place = placeBelow(level[place[0]] as Layer, place[1])
  }
  return place
}

/** A device of random pieces of the devices below, `sectors` long: linear, striped, or zero. */
function randomLayer(random: (limit: number) => number, sectors: number, below: number): Layer {
  const rows: number[] = []
  const stripes: number[] = []
  for (let start = 0; start < sectors;) {
    const length = Math.min(1 + random(200), sectors - start)
    const zero = random(20) === 0
    if (random(5) === 0) {
      rows.push(start, length, STRIPED, stripes.length)
      const columns = 1 + random(4)
      stripes.push(1 + random(16), columns)
      for (let i = 0; i < columns; i++) stripes.push(random(below), random(5000))
      start += length
      continue
    }
    // Some pieces go on where the last one ended, so that there is something to merge.
    const [lastStart = 0, lastLength = 0, lastDevice = 0, lastOffset = 0] = rows.slice(-4)
    if (zero) rows.push(start, length, ZERO, 0)
    else if (rows.length > 0 && lastDevice >= 0 && random(3) === 0) {
      rows.push(
        start,
        length,
        lastDevice,
        lastOffset + (start - lastStart - lastLength) + lastLength,
      )
    } else rows.push(start, length, random(below), random(5000))
    start += length
  }
  return {
    rows: Float64Array.from(rows),
    stripes: Float64Array.from(stripes),
    devices: Array.from({ length: below }, (_, i) => i),
  }
}

const LEVEL_SECTORS = [600, 8000, 20_000]

/** Extents in the order of a file, with holes, on a device of LEVEL_SECTORS[0] sectors. */
function randomExtents(
  random: (limit: number) => number,
  offset: number,
  sectors: number,
): Float64Array {
  const rows: number[] = []
  for (let at = 0; at < sectors;) {
    const length = Math.min(1 + random(20), sectors - at)
    if (random(6) !== 0) {
      const physical = random((LEVEL_SECTORS[0] as number) - length)
      const flags = random(8) === 0 ? UNWRITTEN : 0
      rows.push(offset + at * 512, physical * 512, length * 512, flags)
    }
    at += length
  }
  return Float64Array.from(rows)
}

const CASES = 10_000

await t.test(`${CASES} random files on random stacks are where they should be`, async (t) => {
  const random = randomNumbers(20_06)
  let checked = 0
  let levelsSeen = 0
  for (let round = 0; round < CASES; round++) {
    const offset = random(10) * 512
    const sectors = 1 + random(100)
    const extents = randomExtents(random, offset, sectors)
    const depth = 1 + random(2)
    const widths = [1, 1 + random(3), 1 + random(3)]
    const levels = Array.from({ length: depth }, (_, level) =>
      Array.from({ length: widths[level] as number }, () =>
        randomLayer(random, LEVEL_SECTORS[level] as number, widths[level + 1] as number),
      ),
    )
    levelsSeen += depth
    const { segments, devices } = await result(
      native.buildSegments([
        { extents: pack(extents), offset, sectors, zeroFlags: UNWRITTEN, levels },
      ]),
    )
    const rows = native.segmentRows(segments)
    let next = 0
    for (let row = 0; row < rows.length; row += 4) {
      const [start = 0, length = 0, device = 0, from = 0] = rows.subarray(row, row + 4)
      if (start !== next) throw new Error(`round ${round}: a gap before sector ${start}`)
      for (let sector = start; sector < start + length; sector++) {
        const expected = bruteForce(extents, offset, sector, levels).join(':')
        const found =
          device === ZERO ? `${ZERO}:0` : `${devices[device] as number}:${from + sector - start}`
        if (found !== expected) {
          throw new Error(`round ${round}, sector ${sector}: ${found} instead of ${expected}`)
        }
        checked++
      }
      next = start + length
      const [start2 = 0, , device2 = 0, from2 = 0] = rows.subarray(row + 4, row + 8)
      if (row + 4 < rows.length && start2 === next && device === device2) {
        const contiguous = device === ZERO || from2 === from + length
        if (contiguous) throw new Error(`round ${round}: segments at ${start} not merged`)
      }
    }
    if (next !== sectors) throw new Error(`round ${round}: ends at ${next} instead of ${sectors}`)
    const used = new Set<number>()
    for (let row = 2; row < rows.length; row += 4) used.add(rows[row] as number)
    used.delete(ZERO)
    if (used.size !== devices.length) throw new Error(`round ${round}: an unused device`)
  }
  t.ok(levelsSeen > CASES, `${levelsSeen} levels`)
  t.ok(checked > 100_000, `${checked} sectors agree with the brute force`)
})

await t.test('two tables on the same blocks are told from two that are not', async (t) => {
  const random = randomNumbers(7)
  const tableOf = (): number[][] => {
    const rows: number[][] = []
    const taken = new Set<string>()
    let start = 0
    for (let i = random(6); i >= 0; i--) {
      const [length, device, offset] = [1 + random(8), random(4) - 1, random(60)]
      const places = Array.from({ length }, (_, at) => `${device}:${offset + at}`)
      // Within one table no block is named twice.
      if (device !== ZERO && places.some((place) => taken.has(place))) continue
      if (device !== ZERO) places.forEach((place) => taken.add(place))
      rows.push([start, length, device, device === ZERO ? 0 : offset])
      start += length
    }
    return rows
  }
  let overlaps = 0
  for (let round = 0; round < 5000; round++) {
    const [ours, theirs] = [tableOf(), tableOf()]
    // Their device n is our device (n + 1) % 3.
    const places = new Set(
      theirs.flatMap(([, length = 0, device = 0, offset = 0]) =>
        device === ZERO
          ? []
          : Array.from({ length }, (_, at) => `${(device + 1) % 3}:${offset + at}`),
      ),
    )
    let expected = -1
    for (const [start = 0, length = 0, device = 0, offset = 0] of ours) {
      for (let at = 0; at < length && expected < 0 && device !== ZERO; at++) {
        if (places.has(`${device}:${offset + at}`)) expected = start + at
      }
    }
    const found = await result(
      native.findOverlap(
        Float64Array.from(ours.flat()),
        Float64Array.from(theirs.flat()),
        [1, 2, 0],
      ),
    )
    if (found >= 0) overlaps++
    // Any shared sector will do; that there is one, and none where there is none, is what counts.
    if (found < 0 !== expected < 0) throw new Error(`round ${round}: ${found}, not ${expected}`)
  }
  t.ok(overlaps > 500 && overlaps < 4500, `${overlaps} of 5000 overlap`)

  const [ours, theirs] = [
    Float64Array.of(0, 1, 0, 108),
    Float64Array.of(0, 10, 0, 100, 10, 2, 0, 105),
  ]
  t.equal(await result(native.findOverlap(ours, theirs, [0])), 0, 'blocks that a file has twice')
  t.equal(await result(native.findOverlap(theirs, ours, [0])), 8)
  t.equal(await result(native.findOverlap(ours, theirs, [1])), -1, 'of another device')
  await t.rejects(result(native.findOverlap(ours, theirs, [])), { code: 'EINVAL' })
  const unsafe = Float64Array.of(0, NaN, 0, 100)
  await t.rejects(result(native.findOverlap(ours, unsafe, [0])), { code: 'EINVAL' })
})

await t.test('what does not add up is refused', async (t) => {
  const layer = { rows: Float64Array.of(0, 100, 0, 0), devices: [0] }
  const layOut = async (rows: number[], levels: Layer[][], sectors = 8): Promise<Float64Array> => {
    const extents = pack(Float64Array.from(rows))
    const part = { extents, offset: 0, sectors, zeroFlags: 0, levels }
    return native.segmentRows((await result(native.buildSegments([part]))).segments)
  }
  const EINVAL = { code: 'EINVAL' }
  await t.rejects(layOut([0, 0, 4097, 0], [[layer]]), EINVAL, 'half a sector')
  await t.rejects(layOut([0, 1, 512, 0], [[layer]]), EINVAL, 'an odd address')
  await t.rejects(layOut([0, 0, 8192, 0], [[layer]]), EINVAL, 'longer than the device')
  await t.rejects(layOut([512, 0, 512, 0, 0, 0, 512, 0], [[layer]]), EINVAL, 'out of order')
  await t.rejects(layOut([0, 51200, 512, 0], [[layer]], 1), EINVAL, 'past the layer')
  await t.rejects(layOut([0, 0, 512, 0], [[]], 1), EINVAL, 'no layer')
  const bad = (...rows: number[]): Layer => ({ rows: Float64Array.from(rows), devices: [0] })
  for (const rows of [
    [0, 8, 1, 0],
    [0, 8, -2, 0],
    [0, 8, 0],
    [0, -8, 0, 0],
    [0, NaN, 0, 0],
    [0, 8, 0, 2 ** 53],
  ]) {
    await t.rejects(layOut([0, 0, 512, 0], [[bad(...rows)]], 1), EINVAL, `row ${rows.join(' ')}`)
  }
  const striped = (...stripes: number[]): Layer => ({
    ...bad(0, 8, STRIPED, 0),
    stripes: Float64Array.from(stripes),
  })
  t.strictSame(
    [...(await layOut([0, 0, 512, 0], [[striped(4, 1, 0, 7)]], 1))],
    [0, 1, 0, 7],
    'one column',
  )
  for (const stripes of [
    [],
    [4],
    [0, 1, 0, 7],
    [4, 0],
    [4, 2, 0, 7],
    [4, 1, 1, 7],
    [4, 1, 0, -1],
  ]) {
    const label = `stripes ${stripes.join(' ')}`
    await t.rejects(layOut([0, 0, 512, 0], [[striped(...stripes)]], 1), EINVAL, label)
  }
  const part = { extents: pack(new Float64Array()), sectors: 8, zeroFlags: 0, levels: [] }
  for (const offset of [-1, 2 ** 53, 0.5]) {
    t.throws(() => native.buildSegments([{ ...part, offset }]), TypeError)
  }
  const { segments } = await result(native.buildSegments([{ ...part, offset: 0 }]))
  const mistaken = { ...part, offset: 0, extents: segments as unknown as ExtentList }
  t.throws(() => native.buildSegments([mistaken]), TypeError, 'segments are not taken for extents')
})

await t.test('several files are one table', async (t) => {
  const layer = (device: number): Layer => ({
    rows: Float64Array.of(0, 99, 0, 0),
    devices: [device],
  })
  const part = (rows: number[], sectors: number, device: number): FilePart => ({
    extents: pack(Float64Array.from(rows)),
    offset: 0,
    sectors,
    zeroFlags: 0,
    levels: [[layer(device)]],
  })
  const { segments, devices, count } = await result(
    native.buildSegments([
      part([0, 512 * 8, 4096, 0], 8, 5),
      part([0, 512 * 16, 4096, 0], 8, 5),
      part([0, 0, 1024, 0], 4, 3),
    ]),
  )
  t.strictSame(
    [...native.segmentRows(segments)],
    [0, 16, 0, 8, 16, 2, 1, 0, 18, 2, ZERO, 0],
    'end to end, merged where they meet',
  )
  t.strictSame([devices, count], [[5, 3], 3])
})

await t.test('extents are counted over all files', (t) => {
  const extents = pack(Float64Array.of(0, 512, 1024, 0, 1024, 8192, 512, 0x800))
  const table = new ExtentTable([
    { extents, count: 2, fileStart: 0 },
    { extents, count: 2, fileStart: 4096 },
  ])
  const row = (at: number): Extent | undefined => [...table][at]
  t.equal(table.length, 4)
  t.strictSame(row(1), { logical: 1024, physical: 8192, length: 512, flags: 0x800 })
  t.strictSame(row(3), { logical: 5120, physical: 8192, length: 512, flags: 0x800 })
  for (const at of [0, 1, 2, 3, 4, -1]) t.strictSame(table.at(at), row(at), `extent ${at}`)
  t.strictSame([...table.packed.subarray(8, 12)], [4096, 512, 1024, 0])
  t.end()
})

await t.test('tables', async (t) => {
  const table = new SegmentTable(Float64Array.of(0, 8, 0, 64, 8, 8, -1, 0, 16, 8, 1, 0), [
    '8:1',
    '8:2',
  ])
  t.equal(table.toTable(), '0 8 linear 8:1 64\n8 8 zero\n16 8 linear 8:2 0\n')
  t.strictSame([...table][1], { start: 8, length: 8, target: 'zero' })
  t.strictSame([...table][2], { start: 16, length: 8, target: 'linear', device: '8:2', offset: 0 })
  t.equal(table.length, 3)
  t.equal(table.sectors, 24)
  t.strictSame(JSON.parse(JSON.stringify(table)), [...table])

  const like = (packed: number[], devices = ['8:1', '8:2']): SegmentTable =>
    new SegmentTable(Float64Array.from(packed), devices)
  t.equal(await table.firstDifference(like([...table.packed])), undefined)
  for (const [other, sector] of [
    [like([0, 8, 0, 64, 8, 8, -1, 0, 16, 8, 1, 8]), 16],
    [like([0, 8, 0, 64, 8, 8, 0, 0, 16, 8, 1, 0]), 8],
    [like([0, 8, 0, 64, 8, 8, -1, 0]), 16],
    [like([0, 8, 0, 64, 8, 8, -1, 0, 16, 12, 1, 0]), 24],
    [like([...table.packed, 24, 8, -1, 0]), 24],
    [like([...table.packed], ['8:1', '8:3']), 16],
  ] as const) {
    t.equal(await table.firstDifference(other), sector)
  }

  const renumbered = like([0, 8, 1, 64, 8, 8, -1, 0, 16, 8, 0, 0], ['8:2', '8:1'])
  t.equal(await table.firstDifference(renumbered), undefined, 'whatever the devices are numbered')
  t.equal(await table.firstDifference(like([0, 8, -2, 64])), 0, 'another target is a difference')
  t.equal(new SegmentTable().sectors, 0)
})
