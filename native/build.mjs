// Gets the addon onto this machine.
//   install  npm's install step. Of the published package: a prebuilt binary that loads will do, else it
//            is built from source. Of a checkout: it is built, or told what is missing; that is no failure.
//   setup    what the demo and the tests of a checkout start with: installs the missing compilers, and
//            builds the addon if there is none.
//   (none)   builds it. --sanitize=address and --sanitize=undefined do so with that sanitizer.
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const TOOLS = { 'c++': 'g++', make: 'make', python3: 'python3' }

const root = fileURLToPath(new URL('..', import.meta.url))
// The published package has no tsconfig.json. Where it has one, warnings are errors.
const checkout = existsSync(join(root, 'tsconfig.json'))
const [step = ''] = process.argv.slice(2).filter((word) => !word.startsWith('--'))

const works = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0
const missing = () => Object.keys(TOOLS).filter((command) => !works(command))
const packages = (commands) => commands.map((command) => TOOLS[command])

function run(command, args) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', shell: false })
  if (error?.code === 'ENOENT') {
    console.error(`dmloop: there is no ${command}; run this through npm: npm run build:native`)
  }
  return status ?? 1
}

function explain(commands) {
  console.error(
    `dmloop: building the native addon needs ${commands.join(', ')}, which this machine does not have.\n` +
      (works('apt-get')
        ? `Install them first: apt-get install ${packages(commands).join(' ')}`
        : 'Install a C++20 compiler, make and Python 3 with the package manager of this system.'),
  )
}

async function loads() {
  try {
    await import('dmloop')
    return true
  } catch {
    return false
  }
}

function build() {
  const lacking = missing()
  if (lacking.length > 0) {
    explain(lacking)
    return 1
  }
  // Most installations of Node bring their headers along: with them nothing has to be downloaded.
  const prefix = dirname(dirname(process.execPath))
  const headers = existsSync(join(prefix, 'include/node/common.gypi'))
    ? [`--nodedir=${prefix}`]
    : []
  const sanitize = process.argv.find((word) => word.startsWith('--sanitize=')) ?? '--sanitize=none'
  const strict = `--strict=${checkout ? 1 : 0}`
  return run('node-gyp', ['rebuild', ...headers, '--jobs=max', strict, sanitize])
}

async function install() {
  if (!checkout) return (await loads()) ? 0 : build()
  // Those of an older version may lie here: they are for a tarball, never for the checkout itself.
  rmSync(join(root, 'prebuilds'), { recursive: true, force: true })
  if (missing().length === 0) return build()
  console.error('dmloop: there is no compiler to build the native addon with; see npm run setup')
  return 0
}

function setup() {
  const lacking = missing()
  if (lacking.length > 0 && works('apt-get') && process.getuid() === 0) {
    run('apt-get', ['-q', 'update'])
    run('apt-get', ['-q', 'install', '-y', '--no-install-recommends', ...packages(lacking)])
  }
  return existsSync(join(root, 'build/Release/dmloop.node')) ? 0 : build()
}

process.exitCode = await { install, setup, '': build }[step]()
