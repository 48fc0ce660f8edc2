// The releases of Node that the package is for: the same addon, and the same tests, with each of them.
import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
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

const run = (program: string, args: string[]): Promise<{ stdout: string }> =>
  promisify(execFile)(program, args, { maxBuffer: 1 << 26 })

t.setTimeout(300_000)
t.jobs = 2
const tested = RELEASES.filter((each) => !process.version.startsWith(`v${each}.`)).map((release) =>
  t.test(`Node ${release}`, async (t) => {
    const node = program(release)
    t.match((await run(node, ['--version'])).stdout, `v${release}.`)
    for (const file of files) {
      const stdout = await run(node, [join(tests, file)]).then(
        () => undefined,
        (error: unknown) => (error as { stdout: string }).stdout,
      )
      t.equal(stdout, undefined, file)
    }
  }),
)
await Promise.all(tested)
