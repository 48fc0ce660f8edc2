import type { Plan, PlannedFile } from '../index.js'
import { UsageError } from './arguments.js'
import { problemText } from './failures.js'
import type { PlanJson } from './json.js'
import { PLAN_OPTIONS } from './options.js'
import type { Screen } from './screen.js'
import { STATUS } from './status.js'
import { countPieces, deviceName, drawStorage } from './storage.js'
import { counted, formatBytes, printable } from './text.js'
import { defineVerb } from './verb.js'

export const plan = defineVerb({
  name: 'plan',
  operands: 'FILE ...',
  count: [1, Infinity],
  summary: 'show where a file is stored and what prevents mapping it',
  details:
    'Draws the disk with the parts where the file is stored, counts extents and segments, and lists each problem with its remedy; several files are one device, end to end. Changes nothing. The exit status is 1 if there is a problem. Without root it shows the extents, and says that device-mapper cannot be reached.',
  examples: ['dmloop plan disk.img', 'dmloop plan --table disk.img >table'],
  options: [...PLAN_OPTIONS, 'table'],
  async run({ operands, values, json, screen, dmloop }) {
    const { table, ...options } = values
    if (table && json) throw new UsageError('--table and --json exclude each other')
    const plan = await dmloop.planFile(operands, options)
    if (json) printJson(plan, screen)
    else if (table) printTable(plan, screen)
    else screen.print(await describe(plan, screen))
    return plan.problems.length === 0 ? STATUS.done : STATUS.refused
  },
})

function printTable(plan: Plan, screen: Screen): void {
  screen.print(plan.toTable())
  for (const each of plan.problems) screen.warn(`dmloop: ${problemText(each)}`)
}

/** Rows of JSON that are written at once. */
const BATCH = 1000

/** The document of a plan, whose million extents are not in memory as text. */
function printJson(plan: Plan, screen: Screen): void {
  const { extents, segments, ...rest } = plan.toJSON()
  const head: Omit<PlanJson, 'extents' | 'segments'> = rest
  screen.print(JSON.stringify(head, null, 2).replace(/\n}$/, ''))
  for (const [key, rows] of Object.entries({ extents, segments })) {
    screen.print(`,\n  "${key}": [`)
    let text = ''
    let count = 0
    for (const row of rows) {
      text += `${count++ === 0 ? '' : ','}\n    ${JSON.stringify(row)}`
      if (count % BATCH === 0) {
        screen.print(text)
        text = ''
      }
    }
    screen.print(`${text}${count === 0 ? '' : '\n  '}]`)
  }
  screen.print('\n}\n')
}

async function describe(plan: Plan, screen: Screen): Promise<string> {
  const files = await Promise.all(plan.files.map((file) => describeFile(file, screen)))
  const drawing = await drawStorage(plan, screen)
  const pieces = countPieces(plan)
  return [files.join(''), drawing, pieces, verdict(plan, screen)]
    .filter((part) => part !== '')
    .join('\n')
}

async function describeFile(file: PlannedFile, screen: Screen): Promise<string> {
  const { path, size, filesystem, device, blockSize } = file
  const disk = await deviceName(device)
  const facts = `${formatBytes(size)} on ${filesystem}, ${printable(disk)}, logical blocks of ${blockSize} bytes`
  return `${screen.paint('bold', printable(path))}: ${facts}\n`
}

function verdict(plan: Plan, screen: Screen): string {
  const { problems, fallback, tailBytes } = plan
  const tail =
    tailBytes === 0 ? '' : `; ${counted(tailBytes, 'byte')} at the end are no whole block`
  if (problems.length > 0) {
    const title = `cannot be mapped: ${counted(problems.length, 'problem')}`
    return `${screen.paint('red', title)}\n${listProblems(problems, screen)}`
  }
  const title = screen.paint('green', `can be mapped: ${outcome(plan)}${tail}`)
  if (fallback.length === 0) return `${title}\n`
  return `${title}\nnot linear, because:\n${listProblems(fallback, screen)}`
}

function outcome({ backend, size, readOnly }: Plan): string {
  const kind = backend === 'loop' ? 'loop device' : 'device-mapper device'
  return `a ${readOnly ? 'read-only ' : ''}${kind} of ${formatBytes(size)}`
}

const listProblems = (problems: Plan['problems'], screen: Screen): string =>
  problems
    .map(
      (each) =>
        `${screen.paint('yellow', each.code)}\n${problemText(each).replace(/^/gm, '  ').trimEnd()}\n`,
    )
    .join('')
