// npm run bench:docs: the plots and tables of the kept results, without measuring anything.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { plot } from './plot.js'
import { readResult } from './results.js'
import { withTables } from './tables.js'

const path = (name: string): string => fileURLToPath(new URL(`../../${name}`, import.meta.url))
const PERFORMANCE = path('docs/performance.md')

// A result is plotted if the document shows its plot.
for (const [, name = ''] of readFileSync(PERFORMANCE, 'utf8').matchAll(/\(plots\/(\S+)\.svg\)/g)) {
  const result = readResult(name)
  if (result) writeFileSync(path(`docs/plots/${name}.svg`), plot(result))
}
for (const document of [PERFORMANCE, path('bench/results/README.md'), path('README.md')]) {
  writeFileSync(document, await withTables(document))
}
