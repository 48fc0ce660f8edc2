// The package as others get it: packed, installed elsewhere with a compiler and without, imported and
// required. What is built for other systems is tested by hand: npm run test:package.
import { execFileSync, spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const ADDON = 'build/Release/dmloop.node'
const elsewhere = mkdtempSync(join(tmpdir(), 'dmloop-package-'))
t.teardown(() => {
  rmSync(elsewhere, { recursive: true, force: true })
})
t.setTimeout(300_000)

/** A machine with Node alone. */
const withoutCompiler = { ...process.env, PATH: join(elsewhere, 'bin') }
mkdirSync(withoutCompiler.PATH)
for (const program of ['node', 'npm', 'sh']) {
  const path = execFileSync('sh', ['-c', `command -v ${program}`], { encoding: 'utf8' }).trim()
  symlinkSync(path, join(withoutCompiler.PATH, program))
}

interface Options {
  env?: NodeJS.ProcessEnv
}
const run = (cwd: string, command: string, args: string[], { env }: Options = {}): string =>
  execFileSync(command, args, { cwd, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

interface Packed {
  filename: string
  files: { path: string }[]
}
function pack(folder: string, destination: string): { path: string; files: string[] } {
  const options = ['--json', '--ignore-scripts', '--pack-destination', destination]
  const output = JSON.parse(run(folder, 'npm', ['pack', ...options])) as
    Packed[] | Record<string, Packed>
  const [packed] = Object.values(output)
  if (!packed) throw new Error('npm has packed nothing')
  return { path: join(destination, packed.filename), files: packed.files.map(({ path }) => path) }
}

/** A project that depends on the package. */
function project(name: string): string {
  const folder = join(elsewhere, name)
  mkdirSync(folder)
  const manifest = { name, private: true, type: 'module' }
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest))
  writeFileSync(
    join(folder, 'user.mjs'),
    `import { createRequire } from 'node:module'
     import * as imported from 'dmloop'
     const required = createRequire(import.meta.url)('dmloop')
     const { problems } = await imported.planFile('/dev/null')
     console.log(problems[0].code, required.mapFile === imported.mapFile)`,
  )
  return folder
}
const INSTALL = ['install', '--foreground-scripts', '--no-audit', '--no-fund']
const USED = 'DMLOOP_NOT_REGULAR_FILE true\n'

/** The command, started as a shell does it. */
const command = (folder: string, ...args: string[]): string =>
  run(folder, join(folder, 'node_modules/.bin/dmloop'), args, { env: withoutCompiler })

// What a release would add is added below, and may lie in the checkout as well.
run(elsewhere, 'tar', ['-xf', pack(ROOT, elsewhere).path])
const unpacked = join(elsewhere, 'package')
rmSync(join(unpacked, 'prebuilds'), { recursive: true, force: true })
const tarball = pack(unpacked, elsewhere)

await t.test('what is in it', (t) => {
  for (const path of [
    'dist/index.js',
    'dist/index.d.ts',
    'dist/cli/dmloop.js',
    'native/addon.cc',
    'native/build.mjs',
    'binding.gyp',
    'README.md',
    'LICENSE',
  ]) {
    t.ok(tarball.files.includes(path), path)
  }
  t.strictSame(
    tarball.files.filter((path) => /^(test|vm|bench|examples|out|build|\.ci)/.test(path)),
    [],
    'nothing of the development',
  )
  t.end()
})

await t.test('what others say of it', (t) => {
  const programs = join(ROOT, 'node_modules/.bin')
  // It is an ES module only; every Node that it is for can require one.
  for (const [program, ...options] of [['publint'], ['attw', '--profile', 'esm-only']] as const) {
    const { status, stdout, stderr } = spawnSync(
      join(programs, program),
      [...options, tarball.path],
      { encoding: 'utf8' },
    )
    t.equal(status, 0, program, { stdout, stderr })
  }
  t.end()
})

const built = project('with-a-compiler')
await t.test('with a compiler it is built', (t) => {
  run(built, 'npm', [...INSTALL, tarball.path])
  t.ok(existsSync(join(built, 'node_modules/dmloop', ADDON)))
  t.equal(run(built, process.execPath, ['user.mjs']), USED)
  t.match(command(built, '--version'), /^dmloop \d+\.\d+\.\d+\n$/)

  copyFileSync(join(ROOT, 'test/types/api.ts'), join(built, 'api.ts'))
  const { status, stdout } = spawnSync(
    join(ROOT, 'node_modules/.bin/tsc'),
    [
      ...['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--module', 'nodenext'],
      ...['--target', 'es2022', '--lib', 'es2023,esnext.disposable'],
      ...['--typeRoots', join(ROOT, 'node_modules/@types'), '--types', 'node', 'api.ts'],
    ],
    { cwd: built, encoding: 'utf8' },
  )
  t.equal(status, 0, 'and its types are those of test/types', { stdout })
  t.end()
})

await t.test('without a compiler, the prebuilt addon will do', (t) => {
  const system = join(unpacked, `prebuilds/linux-${process.arch}-glibc`)
  mkdirSync(system, { recursive: true })
  copyFileSync(join(built, 'node_modules/dmloop', ADDON), join(system, 'dmloop.node'))
  const prebuilt = join(elsewhere, 'prebuilt')
  mkdirSync(prebuilt)
  const { path, files } = pack(unpacked, prebuilt)
  t.ok(files.some((name) => name.startsWith('prebuilds/')))

  const folder = project('without-a-compiler')
  run(folder, 'npm', [...INSTALL, path], { env: withoutCompiler })
  t.notOk(existsSync(join(folder, 'node_modules/dmloop/build')))
  t.equal(run(folder, process.execPath, ['user.mjs'], { env: withoutCompiler }), USED)
  t.match(command(folder, 'help'), 'Usage: dmloop')

  const bare = project('without-scripts')
  run(bare, 'npm', [...INSTALL, '--ignore-scripts', path], { env: withoutCompiler })
  t.equal(run(bare, process.execPath, ['user.mjs'], { env: withoutCompiler }), USED)
  t.end()
})

await t.test('with neither, it says what is missing', (t) => {
  const { status, stderr } = spawnSync('npm', [...INSTALL, tarball.path], {
    cwd: project('with-nothing'),
    env: withoutCompiler,
    encoding: 'utf8',
  })
  t.not(status, 0)
  t.match(stderr, 'needs c++, make, python3, which this machine does not have')
  t.end()
})

await t.test('a checkout without a compiler is set up later', (t) => {
  const checkout = join(elsewhere, 'checkout')
  mkdirSync(join(checkout, 'native'), { recursive: true })
  mkdirSync(join(checkout, 'prebuilds'))
  for (const name of ['package.json', 'tsconfig.json', 'native/build.mjs']) {
    copyFileSync(join(ROOT, name), join(checkout, name))
  }
  const install = [join('native', 'build.mjs'), 'install']
  const { status, stderr } = spawnSync(process.execPath, install, {
    cwd: checkout,
    env: withoutCompiler,
    encoding: 'utf8',
  })
  t.equal(status, 0)
  t.match(stderr, 'npm run setup')
  t.notOk(readdirSync(checkout).includes('prebuilds'), 'and no binary of another version is used')
  t.end()
})
