// npm run prebuilds [-- TARGET ...]: the addon for machines without a compiler, into prebuilds/, where
// lib/kernel/load-addon.ts looks for it. It is cross-compiled on Debian 12 (x64) with Debian's own compilers,
// and held against what the oldest systems that Node 20 runs on have.
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { install, MACHINES, run } from './debian.mjs'
import { muslCompiler } from './musl.mjs'

const TARGETS = ['linux-x64-glibc', 'linux-x64-musl', 'linux-arm64-glibc', 'linux-arm64-musl']
/** The versions of them that Node 20 itself needs. */
const NEWEST = { GLIBC: '2.28', GLIBCXX: '3.4.21', CXXABI: '1.3.9' }

const root = fileURLToPath(new URL('..', import.meta.url))

function symbols(machine, file) {
  const table = run(`${machine.name}-linux-gnu-readelf`, ['--dyn-syms', '-W', file])
  // Number, value, size, type, binding, visibility, section, name@version.
  const rows = table.split('\n').map((line) => line.trim().split(/\s+/))
  const named = (test) => rows.filter(test).map(([, , , , , , , name = '']) => name.split('@')[0])
  return {
    undefined: named(([, , , , binding, , section]) => section === 'UND' && binding === 'GLOBAL'),
    defined: named(([, , , , , , section]) => section !== 'UND'),
  }
}

const newer = (version, than) => {
  const [left, right] = [version, than].map((text) => text.split('.').map(Number))
  const at = left.findIndex((number, index) => number !== (right[index] ?? 0))
  return at >= 0 && left[at] > (right[at] ?? 0)
}

/**
 * What a binary needs of its system, in one line; throws where that is too much. musl's symbols have no
 * versions, but each has to be there.
 */
function needs(machine, file, musl) {
  const readelf = (option) => run(`${machine.name}-linux-gnu-readelf`, [option, '-W', file])
  const highest = {}
  for (const [, name, version] of readelf('-V').matchAll(/Name: ([A-Z]+)_([\d.]+)/g)) {
    if (newer(version, NEWEST[name] ?? '0')) throw new Error(`${file} needs ${name}_${version}`)
    if (newer(version, highest[name] ?? '0')) highest[name] = version
  }
  if (musl !== undefined) {
    const libstdcxx = run(`${machine.name}-linux-gnu-g++`, ['-print-file-name=libstdc++.so.6'])
    const there = [musl, libstdcxx.trim()].flatMap((library) => symbols(machine, library).defined)
    const missing = symbols(machine, file).undefined.filter(
      (name) => !/^(napi|node_api)_/.test(name) && !there.includes(name),
    )
    if (missing.length > 0) throw new Error(`${file} needs ${missing.join(', ')}`)
  }
  const libraries = [...readelf('-d').matchAll(/NEEDED.*\[(.*)\]/g)].map(([, name]) => name)
  return [...libraries, ...Object.entries(highest).map((entry) => entry.join('_'))].join(', ')
}

function compilerFor(machine, libc, work) {
  install(machine.packages)
  if (libc === 'musl') return muslCompiler(machine, work)
  return { command: `${machine.name}-linux-gnu-g++` }
}

function build(target, work) {
  const [, arch, libc] = target.split('-')
  const machine = MACHINES[arch]
  const compiler = compilerFor(machine, libc, work)
  const copy = join(work, 'package')
  for (const part of ['package.json', 'binding.gyp', 'native']) {
    cpSync(join(root, part), join(copy, part), { recursive: true })
  }
  // Not a link: make takes no path with a space, and the checkout may have one.
  const addonApi = join('node_modules', 'node-addon-api')
  cpSync(join(root, addonApi), join(copy, addonApi), { recursive: true })
  const headers = dirname(dirname(process.execPath))
  run(
    'node-gyp',
    ['rebuild', `--nodedir=${headers}`, `--arch=${arch}`, '--jobs=max', '--prebuilt=1', '--silent'],
    {
      cwd: copy,
      env: {
        ...process.env,
        CXX: compiler.command,
        LINK: compiler.command,
        // musl's ioctl takes an int.
        CXXFLAGS: libc === 'musl' ? '-Wno-overflow' : '',
      },
    },
  )
  const built = join(copy, 'build/Release/dmloop.node')
  run(`${machine.name}-linux-gnu-strip`, ['--strip-unneeded', built])
  const needed = needs(machine, built, compiler.musl)
  const place = join(root, 'prebuilds', target)
  mkdirSync(place, { recursive: true })
  cpSync(built, join(place, 'dmloop.node'))
  console.log(`${target}: ${statSync(built).size} bytes; needs ${needed}`)
}

if (!readFileSync('/etc/os-release', 'utf8').includes('VERSION_CODENAME=bookworm')) {
  throw new Error('Prebuilt binaries are made on Debian 12, for whose compilers this is written.')
}
const words = process.argv.slice(2)
for (const target of words.length > 0 ? words : TARGETS) {
  const work = mkdtempSync(join(tmpdir(), 'dmloop-prebuilds-'))
  try {
    build(target, work)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
