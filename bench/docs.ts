// npm run bench:docs: plots and tables of the kept results, without measuring anything.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { plot } from './plot.js'
import { keepPlot, readResult, resultNames } from './results.js'
import { withTables } from './tables.js'

const DOCUMENT = fileURLToPath(new URL('../../docs/performance.md', import.meta.url))

for (const name of resultNames()) {
  const result = readResult(name)
  if (result) keepPlot(name, plot(result))
}
writeFileSync(DOCUMENT, await withTables(readFileSync(DOCUMENT, 'utf8')))
