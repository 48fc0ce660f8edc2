// npm's install step: builds the addon. In a checkout of the project (which has a tsconfig.json; the
// published package has none) it first installs the compilers that are missing, and warnings are
// errors. --sanitize=address and --sanitize=undefined build the addon with that sanitizer.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'

const TOOLS = { 'c++': 'g++', make: 'make', python3: 'python3' }

const checkout = existsSync(new URL('../tsconfig.json', import.meta.url))
const sanitize = process.argv.find((word) => word.startsWith('--sanitize=')) ?? '--sanitize=none'

function run(command, args) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', shell: false })
  if (error?.code === 'ENOENT') {
    console.error(`dmloop: there is no ${command}; run this through npm: npm run build:native`)
  }
  return status ?? 1
}
const works = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0

const missing = Object.keys(TOOLS).filter((command) => !works(command))
if (missing.length > 0) {
  const packages = missing.map((command) => TOOLS[command])
  const debian = works('apt-get')
  if (checkout && debian && process.getuid() === 0) {
    run('apt-get', ['-q', 'update'])
    run('apt-get', ['-q', 'install', '-y', '--no-install-recommends', ...packages])
  } else {
    console.error(
      `dmloop: building the native addon needs ${missing.join(', ')}, which this machine does not have.\n` +
        (debian
          ? `Install them first: apt-get install ${packages.join(' ')}`
          : 'Install a C++20 compiler, make and Python 3 with the package manager of this system.'),
    )
    process.exit(1)
  }
}

// Most installations of Node bring their headers along: with them nothing has to be downloaded.
const prefix = dirname(dirname(process.execPath))
const headers = existsSync(join(prefix, 'include/node/common.gypi')) ? [`--nodedir=${prefix}`] : []

process.exit(
  run('node-gyp', ['rebuild', ...headers, '--jobs=max', `--strict=${checkout ? 1 : 0}`, sanitize]),
)
