// docs/performance.md shows the figures that are kept.
import { readFileSync } from 'node:fs'
import t from 'tap'
import { withTables } from '../../bench/tables.js'

const document = readFileSync(new URL('../../../docs/performance.md', import.meta.url), 'utf8')
t.equal(document, await withTables(document), 'npm run bench:docs changes nothing')
