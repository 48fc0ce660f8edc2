// npm run bench:docs: plots and tables of the kept results, without measuring anything.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { plot } from './plot.js'
import { keepPlot, readResult, resultNames } from './results.js'
import { withTables } from './tables.js'

const DOCUMENTS = ['docs/performance.md', 'README.md'].map((path) =>
  fileURLToPath(new URL(`../../${path}`, import.meta.url)),
)

for (const name of resultNames()) {
  const result = readResult(name)
  if (result) keepPlot(name, plot(result))
}
for (const path of DOCUMENTS) writeFileSync(path, await withTables(path))
