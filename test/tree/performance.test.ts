// The documents show the figures that are kept.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { withTables } from '../../bench/tables.js'

for (const name of ['docs/performance.md', 'bench/results/README.md', 'README.md']) {
  const path = fileURLToPath(new URL(`../../../${name}`, import.meta.url))
  const document = readFileSync(path, 'utf8')
  t.equal(document, await withTables(path), `npm run bench:docs changes nothing in ${name}`)
  if (name === 'docs/performance.md')
    t.ok(document.split('\n').length <= 150, 'a page that a person reads')
}
