// Results as Markdown tables, between the marks that a document has for them.
import { format } from 'prettier'
import { circumstances, shown } from './measure.js'
import { readResult } from './results.js'

const MARKED = /(<!-- bench (\S+) -->\n)[^]*?(<!-- \/bench -->)/g

const line = (cells: readonly string[]): string =>
  `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`

function table(name: string): string {
  const result = readResult(name)
  if (!result) return '_Not measured yet._\n'
  const header = Object.keys(result.rows[0] ?? {})
  const rows = result.rows.map((row) => line(Object.values(row).map(shown)))
  const rule = line(header.map(() => '---'))
  return `${circumstances(result)}\n\n${line(header)}${rule}${rows.join('')}`
}

/** The document with the tables as they are kept now. */
export const withTables = (document: string): Promise<string> =>
  format(
    document.replace(MARKED, (_, start: string, name: string, end: string) => {
      return `${start}\n${table(name)}\n${end}`
    }),
    { parser: 'markdown' },
  )
