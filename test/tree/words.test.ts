// The code uses the words of the field: names that it once had instead do not come back.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))

const NAMES = [
  ...['drawPlan', 'holdStill', 'letGo', 'look', 'settle', 'remains', 'Claim', 'levelsOver'],
  ...['levelBeneath', 'notBeneath', 'layOut', 'Descent', 'deviations', 'grown', 'Patience'],
  ...['assertAlone', 'showOne', 'showJoined', 'ours'],
]
const PHRASES = ['lies on', 'lie on', 'beneath', 'by now']

const filesIn = (folder: string, pattern: RegExp): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((path) => pattern.test(path))
    .map((path) => join(folder, path))

const textOf = (path: string): string => readFileSync(join(ROOT, path), 'utf8')

const found = (text: string, words: readonly string[]): string[] =>
  words.filter((word) => new RegExp(`\\b${word}\\b`).test(text))

/** Source text without comments and strings: what is left are names. */
const namesIn = (source: string): string =>
  source.replace(
    /\/\*[^]*?\*\/|\/\/.*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g,
    '',
  )

const sources = [...filesIn('lib', /\.ts$/), ...filesIn('native', /\.(cc|h)$/)]
t.ok(sources.length > 100)
t.match(namesIn(textOf('lib/guard.ts')), /acquireGuard/)
for (const path of sources) {
  const text = textOf(path)
  t.strictSame([...found(namesIn(text), NAMES), ...found(text, PHRASES)], [], path)
}
for (const path of ['README.md', ...filesIn('docs', /\.md$/)]) {
  t.strictSame(found(textOf(path), PHRASES), [], path)
}
