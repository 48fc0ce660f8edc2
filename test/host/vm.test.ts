// The kernel bench itself.
import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'

const CLI = 'out/vm/cli.js'
t.setTimeout(180_000)

interface Outcome {
  status: number | null
  stdout: string
  stderr: string
}

function vm(
  args: string[],
  until?: (stdout: string) => boolean,
  project = process.cwd(),
): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [join(project, CLI), ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: project,
    })
    const outcome = { status: 0, stdout: '', stderr: '' } as Outcome
    child.stdout.on('data', (data: Buffer) => {
      outcome.stdout += data.toString()
      if (until?.(outcome.stdout)) child.kill('SIGKILL')
    })
    child.stderr.on('data', (data: Buffer) => (outcome.stderr += data.toString()))
    child.once('close', (status) => {
      resolve({ ...outcome, status })
    })
  })
}

/** The command lines of processes that are alive and have a word in theirs. */
const running = (word: string): string[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      } catch {
        return ''
      }
    })
    .filter((line) => line.includes(word))

// Two guests at a time, as the machine usually has more processors than one.
t.jobs = 2

void t.test('the command’s status, streams, arguments and directory', async (t) => {
  const script = 'echo out; echo err >&2; pwd; echo "<$1>"; id -u; exit 42'
  const { status, stdout, stderr } = await vm(['sh', '-c', script, 'sh', `a 'b' "c" $d`])
  t.equal(status, 42)
  t.equal(stdout, `out\n${process.cwd()}\n<a 'b' "c" $d>\n0\n`)
  t.equal(stderr, 'err\n')
})

void t.test('a checkout under /tmp, with a space in its path', async (t) => {
  const folder = mkdtempSync('/tmp/dmloop a ')
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  for (const part of ['out/vm', 'vm', 'build/Release/uml-xstate.so', 'package.json']) {
    cpSync(part, join(folder, part), { recursive: true })
  }
  const { status, stdout } = await vm(['pwd'], undefined, folder)
  t.equal(status, 0)
  t.equal(stdout, `${folder}\n`)
})

void t.test('what is in the guest', async (t) => {
  const script =
    'cat /sys/block/ram0/size /sys/block/ram1/size; dmsetup targets; ls /sys/block;' +
    'touch /tmp/a /run/b && ! touch /etc/c 2>/dev/null && echo read-only'
  const { status, stdout } = await vm(['--disk=48', 'sh', '-c', script])
  t.equal(status, 0)
  t.match(stdout, /^98304\n98304\n/)
  t.match(stdout, /^linear /m)
  t.notMatch(stdout, /^(sd|vd|nvme)/m, 'no disk of the host')
  t.match(stdout, /^read-only$/m)
})

void t.test('with udevd', async (t) => {
  const script =
    'dmsetup create x --table "0 8 zero"; readlink /dev/mapper/x; test -S /run/udev/control'
  const { status, stdout } = await vm(['--udev', 'sh', '-c', script])
  t.match({ status, stdout }, { status: 0, stdout: '../dm-0\n' })
})

void t.test('with several processors', async (t) => {
  const script =
    'nproc; echo err >&2; ! touch /etc/c 2>/dev/null && echo read-only;' +
    'dmsetup create x --table "0 8 linear /dev/ram0 16" && dmsetup table x;' +
    'for module in loop ext4 xfs null_blk dm-zero; do modprobe "$module" || echo "no $module"; done;' +
    'ls /sys/block | grep -x nullb0; exit 42'
  const { status, stdout, stderr } = await vm(['--smp=2', '--disk=48', 'sh', '-c', script])
  t.equal(status, 42)
  t.equal(stdout, '2\nread-only\n0 8 linear 1:0 16\nnullb0\n')
  // Where the kernel has to be fetched first, that is told there as well.
  t.match(stderr, /^err$/m)
  t.equal((await vm(['--smp=1', 'sh', '-c', 'echo err >&2'])).stderr, 'err\n')
})

void t.test('with a newer kernel', async (t) => {
  const modules =
    'dm-crypt dm-delay dm-thin-pool dm-snapshot dm-raid raid1 xfs f2fs vfat nls_cp437 nls_iso8859-1' +
    ' nls_ascii btrfs squashfs erofs overlay fuse 9p 9pnet_fd nfsd nfs'
  const script =
    `uname -r; nproc; for module in ${modules}; do modprobe "$module" || echo "no $module"; done;` +
    'dmsetup create x --table "0 8 linear /dev/ram0 16" && dmsetup table x'
  const { status, stdout } = await vm(['--kernel=6.12', '--disk=48', 'sh', '-c', script])
  t.equal(status, 0)
  t.match(stdout, /^6\.12\.\d+\S+\n1\n0 8 linear 1:0 16\n$/)
  t.match(await vm(['--kernel=6', 'true']), { status: 2, stderr: /takes a version/ })
  t.match(await vm(['--kernel=6.12', '--smp=0', 'true']), { status: 2, stderr: /for qemu/ })
  const unknown = await vm(['--kernel=5.99', 'true'])
  t.match(unknown, { status: 70, stderr: /has no kernel 5\.99; it has .*6\.12/ })
})

void t.test('a guest that hangs or dies is told from a command that fails', async (t) => {
  t.match(await vm(['--timeout=5', 'sleep', '60']), { status: 124, stderr: /after 5 s/ })
  for (const kind of ['--smp=0', '--smp=2']) {
    const died = await vm([kind, 'sh', '-c', 'echo c >/proc/sysrq-trigger; sleep 5'])
    t.match(died, { status: 70, stderr: /panic/i }, kind)
  }
  t.match(await vm([]), { status: 2, stderr: /no command/ })
  t.match(await vm(['--disk=many', 'true']), { status: 2, stderr: /--disk takes a whole number/ })
  t.match(await vm(['--nonsense', 'true']), { status: 2, stderr: /nonsense/ })
})

for (const kind of ['--smp=0', '--smp=2']) {
  void t.test(`killed, it takes the guest with it: ${kind}`, async (t) => {
    // A size of its own tells this guest from those of tests that run at the same time.
    const mark = 'DMLOOP_VM_DISK=34816'
    let seen = 0
    let directory = ''
    await vm([kind, '--disk=34', 'sh', '-c', 'echo up; sleep 60'], (stdout) => {
      const [line = ''] = running(mark)
      if (line !== '') directory = /DMLOOP_VM_DIR=([^\0 ]*)/.exec(line)?.[1] ?? ''
      seen = line.length
      return stdout.includes('up')
    })
    t.ok(seen > 0 && directory !== '', 'it was there')
    for (let wait = 0; wait < 50 && running(mark).length > 0; wait++) {
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    t.strictSame(running(mark), [])
    t.notOk(existsSync(directory), 'nor its directory is left')
  })
}
