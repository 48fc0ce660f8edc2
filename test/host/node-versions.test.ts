// The releases of Node that the package is for: the same addon, and the same tests, with each of them.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { cacheFolder } from '../../vm/packages.js'

const RELEASES = ['20', '22', '24']
/** They test the documentation, and a program without Node. */
const NO_NODE = ['native-check.test.js', 'performance.test.js', 'readme.test.js']

const tests = fileURLToPath(new URL('..', import.meta.url))
const files = [
  ...readdirSync(join(tests, 'unit'))
    .filter((name) => name.endsWith('.test.js') && !NO_NODE.includes(name))
    .map((name) => join('unit', name)),
  'host/this-machine.test.js',
]

/** The program of a release: npm has each as a package, which is installed once. */
function program(release: string): string {
  const folder = join(cacheFolder(), `node-${release}`)
  const name = `node-linux-${process.arch}`
  const path = join(folder, 'node_modules', name, 'bin/node')
  if (!existsSync(path)) {
    mkdirSync(folder, { recursive: true })
    const options = ['--no-save', '--no-package-lock', '--no-audit', '--no-fund']
    execFileSync('npm', ['install', ...options, '--prefix', folder, `${name}@${release}`])
  }
  return path
}

t.setTimeout(300_000)
for (const release of RELEASES.filter((each) => !process.version.startsWith(`v${each}.`))) {
  await t.test(`Node ${release}`, (t) => {
    const node = program(release)
    t.match(execFileSync(node, ['--version'], { encoding: 'utf8' }), `v${release}.`)
    for (const file of files) {
      const { status, stdout } = spawnSync(node, [join(tests, file)], { encoding: 'utf8' })
      t.equal(status, 0, file, { stdout })
    }
    t.end()
  })
}
