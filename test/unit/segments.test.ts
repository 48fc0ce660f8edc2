import t from 'tap'
import { native, result, type Layer } from '#lib/native.js'
import { SegmentTable } from '#lib/segments.js'

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

/** Where one sector of a device lies on the level below, found row by row. */
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

await t.test(`${CASES} random files on random stacks lie where they should`, async (t) => {
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
    const { rows, devices } = await result(
      native.layOut(extents, offset, sectors, UNWRITTEN, levels),
    )
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
      native.findOverlap(Float64Array.from(ours.flat()), {
        rows: Float64Array.from(theirs.flat()),
        devices: [1, 2, 0],
      }),
    )
    if (found >= 0) overlaps++
    // Any shared sector will do; that there is one, and none where there is none, is what counts.
    if (found < 0 !== expected < 0) throw new Error(`round ${round}: ${found}, not ${expected}`)
  }
  t.ok(overlaps > 500 && overlaps < 4500, `${overlaps} of 5000 overlap`)
})

await t.test('what does not add up is refused', async (t) => {
  const layer = { rows: Float64Array.of(0, 100, 0, 0), devices: [0] }
  const layOut = async (extents: number[], levels: Layer[][], sectors = 8): Promise<unknown> =>
    result(native.layOut(Float64Array.from(extents), 0, sectors, 0, levels))
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
  t.match(await layOut([0, 0, 512, 0], [[striped(4, 1, 0, 7)]], 1), {
    rows: Float64Array.of(0, 1, 0, 7),
  })
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
  t.throws(() => native.layOut(new Float64Array(), -1, 8, 0, []), TypeError)
  t.throws(() => native.layOut(new Float64Array(), 2 ** 53, 8, 0, []), TypeError)
  t.throws(() => native.layOut(new Float64Array(), 0.5, 8, 0, []), TypeError)
})

await t.test('tables', (t) => {
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
  t.ok(table.equals(like([...table.packed])))
  t.equal(table.firstDifference(like([...table.packed])), undefined)
  for (const [other, sector] of [
    [like([0, 8, 0, 64, 8, 8, -1, 0, 16, 8, 1, 8]), 16],
    [like([0, 8, 0, 64, 8, 8, 0, 0, 16, 8, 1, 0]), 8],
    [like([0, 8, 0, 64, 8, 8, -1, 0]), 16],
    [like([0, 8, 0, 64, 8, 8, -1, 0, 16, 12, 1, 0]), 24],
    [like([...table.packed, 24, 8, -1, 0]), 24],
    [like([...table.packed], ['8:1', '8:3']), 16],
  ] as const) {
    t.notOk(table.equals(other))
    t.equal(table.firstDifference(other), sector)
  }

  const joined = SegmentTable.concat([like([0, 8, 0, 0], ['8:2']), table, like([0, 4, -1, 0], [])])
  t.equal(
    joined.toTable(),
    '0 8 linear 8:2 0\n8 8 linear 8:1 64\n16 8 zero\n24 8 linear 8:2 0\n32 4 zero\n',
  )
  t.equal(new SegmentTable().sectors, 0)
  t.end()
})
