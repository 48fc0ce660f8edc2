// The package as others get it: packed, installed elsewhere, imported and required.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const elsewhere = mkdtempSync(join(tmpdir(), 'dmloop-package-'))
t.teardown(() => {
  rmSync(elsewhere, { recursive: true, force: true })
})
t.setTimeout(300_000)

const run = (cwd: string, command: string, ...args: string[]): string =>
  execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

interface Packed {
  filename: string
  files: { path: string }[]
}
const pack = run(ROOT, 'npm', 'pack', '--json', '--ignore-scripts', '--pack-destination', elsewhere)
const packed = JSON.parse(pack) as Packed[] | Record<string, Packed>
const [tarball] = Object.values(packed)
const files = tarball?.files.map(({ path }) => path) ?? []
for (const path of [
  'dist/index.js',
  'dist/index.d.ts',
  'native/addon.cc',
  'native/build.mjs',
  'binding.gyp',
  'README.md',
  'LICENSE',
]) {
  t.ok(files.includes(path), `${path} is in it`)
}
t.strictSame(
  files.filter((path) => /^(test|vm|bench|examples|out|build|\.ci)/.test(path)),
  [],
  'and nothing of the development',
)

writeFileSync(
  join(elsewhere, 'package.json'),
  '{ "name": "user", "private": true, "type": "module" }',
)
run(elsewhere, 'npm', 'install', '--foreground-scripts', `./${tarball?.filename ?? ''}`)
writeFileSync(
  join(elsewhere, 'user.mjs'),
  `import { createRequire } from 'node:module'
   import * as imported from 'dmloop'
   const required = createRequire(import.meta.url)('dmloop')
   const { problems } = await imported.planFile('/dev/null')
   console.log(problems[0].code, required.mapFile === imported.mapFile)`,
)
t.equal(run(elsewhere, process.execPath, 'user.mjs'), 'DMLOOP_NOT_REGULAR_FILE true\n')
