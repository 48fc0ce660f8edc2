// Numbers and names for people.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

function scale(bytes: number): { number: string; unit: string } {
  let power = 0
  while (bytes >= 1024 ** (power + 1) && power < UNITS.length - 1) power++
  const number = (bytes / 1024 ** power).toFixed(1).replace(/\.0$/, '')
  return { number, unit: UNITS[power] as string }
}

/** 1.5 GiB */
export function formatBytes(bytes: number): string {
  const { number, unit } = scale(bytes)
  return `${number} ${unit}`
}

/** 1.5G, as lsblk writes it: one word for a column. */
export function shortBytes(bytes: number): string {
  const { number, unit } = scale(bytes)
  return number + unit.charAt(0)
}

export const counted = (count: number, noun: string): string =>
  `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`

/** A file's name may hold what moves a terminal's cursor, or starts a line. */
export const printable = (text: string): string =>
  // eslint-disable-next-line no-control-regex -- They are what is looked for.
  text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) => {
    const code = character.charCodeAt(0).toString(16).padStart(2, '0')
    return `\\x${code}`
  })

/** Lines of words, as wide as a terminal of 80 columns, each after an indent. */
export function wrapWords(text: string, indent = '', width = 80): string {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    const longer = line === '' ? word : `${line} ${word}`
    if (line !== '' && indent.length + longer.length > width) {
      lines.push(line)
      line = word
    } else {
      line = longer
    }
  }
  return [...lines, line].map((each) => indent + each).join('\n')
}

/** Columns as wide as their cells need, two spaces apart; the last is not padded. */
export function alignColumns(rows: readonly (readonly string[])[]): string {
  const widths: number[] = []
  for (const row of rows) {
    for (const [at, cell] of row.entries()) widths[at] = Math.max(widths[at] ?? 0, cell.length)
  }
  const line = (row: readonly string[]): string =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join('  ')
      .trimEnd()
  return rows.map((row) => `${line(row)}\n`).join('')
}
