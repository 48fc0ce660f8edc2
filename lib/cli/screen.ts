// Where the command writes: results to standard output, everything else to standard error.
import { styleText } from 'node:util'
import type { Progress, ProgressListener } from '../index.js'
import { formatBytes, printable } from './text.js'

export interface Output {
  write(text: string): unknown
  isTTY?: boolean
  columns?: number
}

export interface Streams {
  stdout: Output
  stderr: Output
  env: Readonly<Record<string, string | undefined>>
}

export type Style = 'bold' | 'dim' | 'green' | 'red' | 'yellow'

/** Columns of what is no terminal. */
const WIDTH = 80
/** Milliseconds between two drawings of the progress. */
const PERIOD = 100
const CLEAR_LINE = '\r\x1b[K'

const isTerminal = ({ isTTY }: Output, env: Streams['env']): boolean =>
  isTTY === true && env.TERM !== 'dumb'

/** A terminal may not know how wide it is, and says 0. */
const widthOf = ({ columns }: Output): number =>
  columns === undefined || columns === 0 ? WIDTH : columns

/** As setlocale(3) finds it. */
const isUtf8 = ({ LC_ALL, LC_CTYPE, LANG }: Streams['env']): boolean =>
  /utf-?8/i.test(
    [LC_ALL, LC_CTYPE, LANG].find((value) => value !== undefined && value !== '') ?? '',
  )

export class Screen {
  readonly width: number
  /** Whether to draw with more than ASCII. */
  readonly blocks: boolean
  readonly #streams: Streams
  readonly #colours: boolean
  #progress = false

  constructor(streams: Streams) {
    const { stdout, env } = streams
    const terminal = isTerminal(stdout, env)
    this.#streams = streams
    this.width = terminal ? widthOf(stdout) : WIDTH
    this.blocks = terminal && isUtf8(env)
    this.#colours = terminal && (env.NO_COLOR ?? '') === ''
  }

  print(text: string): void {
    this.clearProgress()
    this.#streams.stdout.write(text)
  }

  warn(text: string): void {
    this.clearProgress()
    this.#streams.stderr.write(text)
  }

  paint(style: Style, text: string): string {
    // Which terminal this is for is decided here.
    return this.#colours ? styleText(style, text, { validateStream: false }) : text
  }

  /** Shows the progress of a call on one line of a terminal; undefined where there is none. */
  progress(what: string): ProgressListener | undefined {
    const { stderr, env } = this.#streams
    if (!isTerminal(stderr, env)) return undefined
    const start = performance.now()
    let next = start
    return (progress) => {
      const now = performance.now()
      if (now < next) return
      next = now + PERIOD
      const line = progressLine(what, progress, (now - start) / 1000)
      // A line that reaches the last column would go on in the next.
      stderr.write(CLEAR_LINE + line.slice(0, widthOf(stderr) - 1))
      this.#progress = true
    }
  }

  clearProgress(): void {
    if (this.#progress) this.#streams.stderr.write(CLEAR_LINE)
    this.#progress = false
  }
}

/** disk.img: comparing  42 %  430.1 MiB of 1 GiB  215 MiB/s */
export function progressLine(what: string, { done, total }: Progress, seconds: number): string {
  const share = total === undefined || total === 0 ? undefined : Math.floor((100 * done) / total)
  const columns = [
    printable(what),
    ...(share === undefined ? [] : [`${share} %`.padStart(5)]),
    formatBytes(done) + (total === undefined ? '' : ` of ${formatBytes(total)}`),
    ...(seconds > 0 ? [`${formatBytes(done / seconds)}/s`] : []),
  ]
  return columns.join('  ')
}
