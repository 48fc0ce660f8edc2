// What the tools for releases need of Debian 12 on x64, the system that they run on.
import { execFileSync } from 'node:child_process'

/** The machines that it has compilers for, by Node's names. */
export const MACHINES = {
  x64: { name: 'x86_64', debian: 'amd64', packages: ['g++'] },
  arm64: { name: 'aarch64', debian: 'arm64', packages: ['g++-aarch64-linux-gnu'] },
}

/** Runs a command, and gives what it prints. */
export function run(command, args, options) {
  return execFileSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 2 ** 28,
    ...options,
  })
}

export function install(packages) {
  const installed = run('dpkg-query', ['-W', '-f', '${Package} ${db:Status-Status}\n']).split('\n')
  const missing = packages.filter((name) => !installed.includes(`${name} installed`))
  if (missing.length === 0) return
  run('apt-get', ['-q', 'update'])
  run('apt-get', ['-q', 'install', '-y', '--no-install-recommends', ...missing])
}
