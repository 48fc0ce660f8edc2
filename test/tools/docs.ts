// What docs/ repeats of the code and the tests: docs/refusals.md shows lib/kernel/policy.ts, docs/compatibility.md
// shows test/matrix.ts, and docs/command.md the command's help. `npm run docs` writes it; test/tree/docs.test.ts
// compares.
import { fileURLToPath } from 'node:url'
import { writeFileSync } from 'node:fs'
import { generalHelp, imageHelp, verbHelp } from '#lib/cli/help.js'
import { IMAGE_VERBS } from '#lib/cli/image/verbs.js'
import { VERBS } from '#lib/cli/verbs.js'
import { POLICY } from '#lib/kernel/policy.js'
import { markdownTable, withGenerated } from '../../bench/tables.js'
import { MATRIX, type Row } from '../matrix.js'

interface Table {
  document: string
  header: string[]
  rows: string[][]
}

const outcome = (cell: string): string => (cell === 'mapped' ? '**mapped**' : `\`${cell}\``)

/** Both outcomes of a row, with that on newer kernels where it is another. */
const outcomes = ({ writable, readOnly, newer }: Row): string[] =>
  [writable, readOnly].map((usual) =>
    newer === undefined ? outcome(usual) : `${outcome(usual)}; Linux 6.12: ${outcome(newer)}`,
  )

export const TABLES: Record<string, Table> = {
  refusals: {
    document: 'docs/refusals.md',
    header: ['code', 'the file …', 'why it matters', 'what to do', "with `backend: 'auto'`"],
    rows: Object.entries(POLICY).map(([code, { found, why, remedy, blocks }]) => [
      `\`${code}\``,
      found,
      why,
      remedy,
      blocks === 'linear' ? 'loop device' : 'rejected',
    ]),
  },
  compatibility: {
    document: 'docs/compatibility.md',
    header: ['a file …', 'writable', 'read-only'],
    rows: MATRIX.map((row) => [row.file, ...outcomes(row)]),
  },
}

/** The path of a file of this project. */
export const projectPath = (name: string): string =>
  fileURLToPath(new URL(`../../../${name}`, import.meta.url))

/** A document with its tables as they must be now. */
export const withPolicyTables = (document: string): Promise<string> =>
  withGenerated(projectPath(document), 'table', (name) => {
    const table = TABLES[name]
    if (!table) throw new Error(`${document} asks for the table ${name}, which does not exist`)
    return markdownTable(table.header, table.rows)
  })

/** The document of the command. */
export const COMMAND = 'docs/command.md'

const fenced = (text: string): string => `\`\`\`text\n${text}\`\`\`\n`

const HELP: Record<string, () => string> = {
  general: () => `\n${fenced(generalHelp())}`,
  verbs: () =>
    [...VERBS, ...IMAGE_VERBS]
      .map((verb) => `\n### \`${verb.name}\`\n\n${fenced(verbHelp(verb))}`)
      .join(''),
  images: () => `\n${fenced(imageHelp())}`,
}

/** A document with the command's help as it is now. */
export const withHelp = (document: string): Promise<string> =>
  withGenerated(projectPath(document), 'help', (name) => {
    const help = HELP[name]
    if (!help) throw new Error(`${document} asks for the help ${name}, which does not exist`)
    return help()
  })

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const { document } of Object.values(TABLES)) {
    writeFileSync(projectPath(document), await withPolicyTables(document))
  }
  writeFileSync(projectPath(COMMAND), await withHelp(COMMAND))
}
