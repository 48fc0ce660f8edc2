// planFile changes nothing: every system call of it, as strace sees them.
import { rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { fragmentedFile, makeHost, oneSegment, sh } from './lab.js'

const PROGRAM = fileURLToPath(new URL('plan-between-marks.js', import.meta.url))

const host = makeHost('ext4', oneSegment(), { name: 'host' })
const file = `${host.path}/image`
fragmentedFile(file, 1 << 20, 100, 1)
rmSync(`${host.path}/.filler`)
const dirty = `${host.path}/dirty`
// A slow machine takes longer than the 30 s after which the kernel would write dirty data by itself.
sh('echo 0 >/proc/sys/vm/dirty_writeback_centisecs')

/** The calls between the program's two marks (it opens paths that are not there). */
function calls(path: string): string[] {
  sh(`strace -f -s 200 -o /tmp/trace "${process.execPath}" "${PROGRAM}" ${path}`)
  const lines = sh('cat /tmp/trace').split('\n')
  const first = lines.findIndex((line) => line.includes('/mark/begin'))
  const last = lines.findLastIndex((line) => line.includes('/mark/end'))
  t.ok(first > 0 && last > first, 'both marks are in the trace')
  return lines.slice(first + 1, last).map((line) => line.replace(/^\d+ +/, ''))
}

/** What a call may do: look, or move this process's own memory, threads and descriptors about. */
const HARMLESS = [
  /^(<\.\.\. )?(futex|mprotect|mmap|munmap|madvise|brk|epoll_\w+|clone3?|set_robust_list|rseq|rt_sig\w+|gettid|getpid|sched_\w+|clock_\w+|gettimeofday|restart_syscall|prctl|exit|getrandom|sysinfo|uname)\b/,
  /^(<\.\.\. )?(fstat|stat|lstat|statx|newfstatat|statfs|fstatfs|readlink|readlinkat|name_to_handle_at|read|pread64|getdents64|lseek|access|faccessat2?|fgetxattr|close|fcntl|getcwd|dup|poll)\b/,
  // Wakes a thread of Node's own through an eventfd or a pipe: eight bytes or one.
  /^(<\.\.\. )?write(\(\d+, "(\\1\\0\\0\\0\\0\\0\\0\\0", 8|[^"]{1,2}", 1)(\)| <unfinished)| resumed)/,
  /^(<\.\.\. )?openat(\(AT_FDCWD, "[^"]+", O_RDONLY(\|O_(CLOEXEC|NONBLOCK|NOCTTY|DIRECTORY|PATH))*(\)| <unfinished)| resumed)/,
  // The ioctls of device-mapper need its node open for writing; which ones come is below.
  /^openat\(AT_FDCWD, "\/dev\/mapper\/control", O_RDWR\|O_CLOEXEC\)?/,
  /^(<\.\.\. )?ioctl(\(\d+, (FS_IOC_FIEMAP|FS_IOC_GETFLAGS|FS_IOC_FSGETXATTR|DM_LIST_DEVICES|DM_TABLE_STATUS|DM_DEV_STATUS|DM_VERSION|FIONBIO)\b| resumed)/,
  /^quotactl(_fd\(\d+, |\()QCMD\(Q_XGETQSTATV, USRQUOTA\)/,
  /^(<\.\.\. )?quotactl(_fd)? resumed/,
  /^(---|\+\+\+|strace)/,
]

for (const path of [file, dirty]) {
  if (path === dirty) sh(`head -c 64K /dev/urandom >${dirty}`)
  const found = calls(path)
  const suspicious = found.filter(
    (call) => call !== '' && !HARMLESS.some((rule) => rule.test(call)),
  )
  t.strictSame(suspicious, [], `${found.length} calls, none of which changes anything`)
  t.ok(
    found.some((call) => call.includes('FS_IOC_FIEMAP')),
    'the extents were read meanwhile',
  )
  t.ok(!found.some((call) => call.includes('FIEMAP_FLAG_SYNC')), 'and nothing was synced')
  // By then it may lead to a device, whose opening can do something.
  const opened = found.filter((call) => call.includes(`openat(AT_FDCWD, "${path}"`))
  t.match(opened, [/O_PATH/], 'the path is followed once, and what it leads to not opened by it')
}
t.match(sh(`filefrag -v ${dirty}`), /delalloc/, 'dirty data is still where it was')
host.remove()
