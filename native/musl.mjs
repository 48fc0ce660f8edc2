// A C++ compiler for musl, out of Debian 12's packages. They have musl, and no libstdc++ for it: the
// addon takes the one that Node runs with, as with glibc, and is compiled with that one's headers, which
// GCC's source, another package, makes.
import { cpSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { install, run } from './debian.mjs'

/** Debian's packages for a machine, unpacked; apt's own lists stay as they are. */
function unpack(names, debian, work) {
  const folder = join(work, 'unpacked')
  const downloads = join(work, 'downloads')
  const lists = join(work, 'lists')
  for (const made of [downloads, join(lists, 'partial')]) mkdirSync(made, { recursive: true })
  const own = [`Dir::State::Lists=${lists}`, `Dir::Cache=${work}`, 'APT::Sandbox::User=root']
  const architectures = ['amd64', 'arm64'].map((name) => `APT::Architectures::=${name}`)
  const apt = ['-q', ...[...own, ...architectures].flatMap((option) => ['-o', option])]
  run('apt-get', [...apt, 'update'])
  const packages = names.map((name) => `${name}:${debian}`)
  run('apt-get', [...apt, 'download', ...packages], { cwd: downloads })
  for (const file of readdirSync(downloads)) run('dpkg', ['-x', join(downloads, file), folder])
  return folder
}

/**
 * The compiler for a machine, as a command, musl itself, and the folder where libstdc++'s headers are and
 * `make` makes the library.
 */
export function muslCompiler({ name, debian }, work) {
  install(['gcc-12-source', 'make', 'xz-utils'])
  const unpacked = unpack(['musl', 'musl-dev', 'linux-libc-dev'], debian, work)
  const sysroot = join(work, 'sysroot')
  const libraries = join(sysroot, 'usr/lib')
  const include = join(sysroot, 'usr/include')
  const libc = join(libraries, 'libc.so')
  const copy = (from, to) => cpSync(join(unpacked, from), to, { recursive: true })
  copy(`usr/include/${name}-linux-musl`, include)
  copy(`usr/include/${name}-linux-gnu/asm`, join(include, 'asm'))
  copy('usr/include/asm-generic', join(include, 'asm-generic'))
  copy('usr/include/linux', join(include, 'linux'))
  copy(`usr/lib/${name}-linux-musl`, libraries)
  copy(`lib/${name}-linux-musl/libc.so`, libc)
  // A cross-compiler of Debian looks into its own glibc's folders whatever its sysroot.
  const own = run(`${name}-linux-gnu-gcc`, ['-print-file-name=include']).trim()
  // On arm64 libgcc would ask glibc how atomic operations are best done.
  const atomics = name === 'aarch64' ? ' -mno-outline-atomics' : ''
  const compiler = (command, ...headers) =>
    [
      `${name}-linux-gnu-${command}${atomics} -nostdinc`,
      ...[...headers, own, include].map((folder) => `-isystem ${folder}`),
      `--sysroot=${sysroot} -B${libraries} -Wl,-dynamic-linker,/lib/ld-musl-${name}.so.1`,
    ].join(' ')

  const gcc = join(work, 'gcc')
  mkdirSync(gcc)
  const [archive] = readdirSync('/usr/src/gcc-12').filter((file) => file.startsWith('gcc-12'))
  run('tar', ['-C', gcc, '--strip-components=1', '-xf', join('/usr/src/gcc-12', archive)])
  // Which threads there are: a link that the build of all of GCC makes.
  mkdirSync(join(work, 'libgcc'))
  symlinkSync(join(gcc, 'libgcc/gthr-posix.h'), join(work, 'libgcc/gthr-default.h'))
  const libstdcxx = join(work, 'libstdc++')
  mkdirSync(libstdcxx)
  const host = `${name}-linux-musl`
  const options = ['--disable-multilib', '--disable-nls', '--disable-libstdcxx-pch']
  run(
    join(gcc, 'libstdc++-v3/configure'),
    ['--build=x86_64-linux-gnu', `--host=${host}`, ...options],
    { cwd: libstdcxx, env: { ...process.env, CC: compiler('gcc'), CXX: compiler('g++') } },
  )
  run('make', ['-C', 'include'], { cwd: libstdcxx })
  const headers = [
    join(libstdcxx, 'include'),
    join(libstdcxx, 'include', host),
    join(gcc, 'libstdc++-v3/libsupc++'),
  ]
  return { command: compiler('g++', ...headers), musl: libc, libstdcxx }
}
