// plan.js [FILESYSTEM]: planFile against filefrag -v, and against a loop in C over the same ioctl: the floor.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { planFile } from 'dmloop'
import { quoted, sh } from '../test/shell.js'
import { fragmentedHost, type MeasuredFile } from './files.js'
import { floor, milliseconds, afterFork, PAIRS, report, spread } from './measure.js'
import type { Row } from './results.js'

const PEER = fileURLToPath(new URL('../test/vm/peer.js', import.meta.url))
const SIZES = [1, 1000, 100_000, 1_000_000]

async function measure({ file }: MeasuredFile): Promise<Row> {
  const extents = (await planFile(file)).extents.length
  const ours: number[] = []
  const ratios = { floor: [] as number[], filefrag: [] as number[], processes: [] as number[] }
  const over: number[] = []
  for (let pair = 0; pair < PAIRS; pair++) {
    const time = await afterFork(
      () => planFile(file),
      () => planFile(file),
    )
    const least = floor('plan', file)
    const filefrag = await milliseconds(() => sh(`filefrag -v ${quoted(file)} >/dev/null`))
    const whole = await milliseconds(() =>
      execFileSync(process.execPath, [PEER, 'plan', file], { stdio: 'ignore' }),
    )
    ours.push(time)
    over.push(time - least)
    ratios.floor.push(time / least)
    ratios.filefrag.push(time / filefrag)
    ratios.processes.push(whole / filefrag)
  }
  return {
    extents,
    'planFile, ms': Number(spread(ours).median.toFixed(2)),
    'over the floor, ms': Number(spread(over).median.toFixed(2)),
    'call / floor': spread(ratios.floor),
    'call / filefrag -v': spread(ratios.filefrag),
    'whole process / filefrag -v': spread(ratios.processes),
  }
}

const [filesystem] = process.argv.slice(2)
const rows: Row[] = []
for (const size of SIZES) {
  const made = await fragmentedHost(size, filesystem)
  try {
    rows.push(await measure(made))
  } finally {
    made.remove()
  }
}
report('plan', 'From a file to its extents', rows)
