// npm run bench:docs: the plots and tables of the kept results, without measuring anything.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { plot } from './plot.js'
import { readResult } from './results.js'
import { withTables } from './tables.js'

const path = (name: string): string => fileURLToPath(new URL(`../../${name}`, import.meta.url))
const DOCUMENTS = ['bench/results/README.md', 'docs/performance.md', 'README.md'].map(path)

for (const document of DOCUMENTS) {
  // A result is plotted if a document shows its plot.
  for (const [, name = ''] of readFileSync(document, 'utf8').matchAll(/plots\/([^/)]+)\.svg\)/g)) {
    const result = readResult(name)
    if (result) writeFileSync(path(`docs/plots/${name}.svg`), plot(result))
  }
  writeFileSync(document, await withTables(document))
}
