// A result as a picture, made of its rows alone: lines where the only thing that changes is a number,
// otherwise grouped bars. The bar or the dot is the median, the thin line the range.
import {
  init,
  type BarSeriesOption,
  type CustomSeriesOption,
  type EChartsOption,
  type LineSeriesOption,
} from 'echarts'
import { circumstances, shown } from './measure.js'
import type { Result, Row, Spread } from './results.js'

const WIDTH = 1000
const PANEL = 300
const GAP = 90
const TOP = 110
const COLORS = ['#0b6e4f', '#2f7fc1', '#d1495b', '#e08e1b', '#7a5ea8', '#5b6770', '#1aa6a6']

interface Point {
  panel: string
  series: string
  /** A number where it is a place on an axis; a bar has none. */
  category: number | string
  value: Spread
}

const isSpread = (cell: Row[string] | undefined): cell is Spread => typeof cell === 'object'
const isRatio = (column: string): boolean => column.includes('/ ')

/** The columns that say what a row is about: the first, and the words right after it. */
function labelColumns(rows: readonly Row[]): string[] {
  const columns = Object.entries(rows[0] ?? {})
  const end = columns.findIndex(([, cell], index) => index > 0 && typeof cell !== 'string')
  return columns.slice(0, end).map(([column]) => column)
}

/** What is drawn: the columns of measured ranges. */
const figureColumns = (rows: readonly Row[]): string[] =>
  Object.keys(rows[0] ?? {}).filter((column) => rows.some((row) => isSpread(row[column])))

/** Ratios share a panel, and so does what has the same unit: "call, ms". */
const unit = (figure: string): string =>
  isRatio(figure) ? 'ratio' : (figure.split(', ').at(-1) ?? figure)

/** Where a figure of a row is drawn: the more labels a row has, the more of them tell figures apart. */
function placeOf(
  figure: string,
  [first, second]: readonly string[],
): [panel: string, series: string] {
  if (first === undefined) return [unit(figure), figure]
  return second === undefined ? [figure, first] : [`${first}: ${figure}`, second]
}

function pointsOf(rows: readonly Row[]): Point[] {
  const [categories = '', ...others] = labelColumns(rows)
  const all = figureColumns(rows)
  // Three labels are a panel, its groups and its bars already.
  const figures = others.length > 1 ? all.slice(0, 1) : all
  return rows.flatMap((row) =>
    figures.flatMap((figure) => {
      const cell = row[figure]
      const category = row[categories]
      if (!isSpread(cell) || category === undefined || isSpread(category)) return []
      const labels = others.map((column) => shown(row[column] ?? ''))
      const [panel, series] = placeOf(figure, labels)
      return {
        panel,
        series,
        category: others.length > 0 ? String(category) : category,
        value: cell,
      }
    }),
  )
}

const distinct = <T>(values: readonly T[]): T[] => [...new Set(values)]

/** Vertical lines from the least to the most, one for each point; `slot` of `slots` bars side by side. */
function ranges(
  points: readonly Point[],
  color: string,
  bars?: { slot: number; slots: number },
): CustomSeriesOption {
  return {
    type: 'custom',
    silent: true,
    z: 5,
    data: points.map(({ category, value }) => [category, value.least, value.most]),
    encode: { x: 0, y: [1, 2] },
    renderItem(_, api) {
      const layout = bars && api.barLayout({ count: bars.slots })
      const shift = layout?.[bars?.slot ?? 0]?.offsetCenter ?? 0
      const [x = 0, low = 0] = api.coord([api.value(0), api.value(1)])
      const [, high = 0] = api.coord([api.value(0), api.value(2)])
      return {
        type: 'line',
        shape: { x1: x + shift, y1: low, x2: x + shift, y2: high },
        style: { stroke: bars ? '#222' : color, lineWidth: 1 },
      }
    },
  }
}

const LINE_AT_ONE = {
  silent: true,
  symbol: 'none',
  lineStyle: { color: '#222', type: 'dashed' },
  label: { show: false },
  data: [{ yAxis: 1 }],
} as const

function seriesOf(
  points: readonly Point[],
  panel: number,
  names: readonly string[],
  lines: boolean,
): (BarSeriesOption | LineSeriesOption | CustomSeriesOption)[] {
  const here = distinct(points.map(({ series }) => series))
  return here.flatMap((name, slot) => {
    const own = points.filter(({ series }) => series === name)
    const color = COLORS[names.indexOf(name) % COLORS.length] ?? '#000'
    const shared = {
      name,
      color,
      xAxisIndex: panel,
      yAxisIndex: panel,
      data: own.map(({ category, value }) => [category, value.median]),
      markLine: slot === 0 && own.every(({ panel }) => isRatioPanel(panel)) ? LINE_AT_ONE : {},
    }
    const bars = lines ? undefined : { slot, slots: here.length }
    return [
      lines
        ? { ...shared, type: 'line', symbol: 'circle', symbolSize: 7 }
        : { ...shared, type: 'bar' },
      { ...ranges(own, color, bars), xAxisIndex: panel, yAxisIndex: panel },
    ]
  })
}

const isRatioPanel = (panel: string): boolean => panel === 'ratio' || isRatio(panel)

export function plot(result: Result): string {
  const points = pointsOf(result.rows)
  const lines =
    labelColumns(result.rows).length === 1 &&
    points.every(({ category }) => typeof category === 'number')
  const panels = distinct(points.map(({ panel }) => panel))
  const names = distinct(points.map(({ series }) => series))
  const height = TOP + panels.length * (PANEL + GAP)
  const top = (panel: number): number => TOP + 30 + panel * (PANEL + GAP)
  const [categories = ''] = labelColumns(result.rows)
  const option: EChartsOption = {
    animation: false,
    backgroundColor: '#fff',
    title: [
      { text: result.title, subtext: circumstances(result), left: 'center' },
      ...panels.map((text, panel) => ({
        text,
        textStyle: { fontSize: 13 },
        left: 60,
        top: top(panel) - 32,
      })),
    ],
    // Widths of words are estimated without a browser, and often too small.
    legend: { top: 64, itemGap: 36, data: names },
    grid: panels.map((_, panel) => ({ top: top(panel), height: PANEL, left: 70, right: 30 })),
    xAxis: panels.map((_, gridIndex) => ({
      gridIndex,
      name: categories,
      nameLocation: 'middle',
      nameGap: 28,
      ...(lines
        ? { type: 'log' }
        : {
            type: 'category',
            data: distinct(points.map(({ category }) => String(category))),
            axisLabel: { interval: 0 },
          }),
    })),
    // A bar's length means something from zero only.
    yAxis: panels.map((_, gridIndex) => ({ gridIndex, type: lines ? 'log' : 'value' })),
    series: panels.flatMap((panel, index) =>
      seriesOf(
        points.filter((point) => point.panel === panel),
        index,
        names,
        lines,
      ),
    ),
  }
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height })
  chart.setOption(option)
  const svg = chart.renderToSVGString()
  chart.dispose()
  return `${svg}\n`
}
