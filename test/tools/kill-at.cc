// Kills a program at a system call of its choosing:
//
//   kill-at N COMMAND [ARG ...]
//
// Counted are the calls of all its threads, between its looks at /mark/begin and /mark/end (which
// need not be there), that may change something outside of the process. On entry to the Nth, before
// the kernel does anything, the process gets SIGKILL: that is as good as a kill anywhere since the
// call before, as nothing but the process itself has changed in between. Prints the call, or how
// many there were in all if they are fewer.
//
// A call that is stopped at takes much longer, so the process runs free until it sends itself
// SIGUSR2, and then reads a byte from its standard input. The variable KILL_AT tells it to.
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/dm-ioctl.h>
#include <linux/f2fs.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>

namespace {

// Calls that look, or change nothing but the process's own memory, threads and descriptors. A kill
// closes all descriptors, so what close(2) lets go of is let go of either way.
const std::set<long> kHarmless = {
    SYS_read,
    SYS_pread64,
    SYS_readv,
    SYS_preadv,
    SYS_stat,
    SYS_fstat,
    SYS_lstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_access,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlink,
    SYS_readlinkat,
    SYS_getdents64,
    SYS_lseek,
    SYS_getcwd,
    SYS_fgetxattr,
    SYS_name_to_handle_at,
    SYS_open_by_handle_at,
    SYS_getxattr,
    SYS_poll,
    SYS_epoll_wait,
    SYS_epoll_pwait,
    SYS_epoll_ctl,
    SYS_epoll_create1,
    SYS_eventfd2,
    SYS_pipe2,
    SYS_futex,
    SYS_mmap,
    SYS_munmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_madvise,
    SYS_mincore,
    SYS_shmat,
    SYS_shmdt,
    SYS_brk,
    SYS_clone,
    SYS_clone3,
    SYS_exit,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_gettid,
    SYS_getpid,
    SYS_getuid,
    SYS_geteuid,
    SYS_sched_yield,
    SYS_prctl,
    SYS_getrandom,
    SYS_sysinfo,
    SYS_uname,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_gettimeofday,
    SYS_restart_syscall,
    SYS_dup,
    SYS_dup2,
    SYS_dup3,
    SYS_membarrier,
    SYS_time,
    SYS_close,
    SYS_sched_getaffinity,
    SYS_socket,
    // Never to a listener of its own type: that would be a connection.
    SYS_connect,
    // Which files the kernel itself uses for quotas: nothing else is asked with it.
    SYS_quotactl,
    SYS_quotactl_fd,
    // What Node.js does around a program that it runs: the streams to it, and its end.
    SYS_socketpair,
    SYS_shutdown,
    SYS_wait4,
};

const std::set<uint32_t> kLookingIoctls = {
    FS_IOC_FIEMAP,     FS_IOC_GETFLAGS,       FS_IOC_FSGETXATTR,  FIBMAP,
    FIGETBSZ,          F2FS_IOC_GET_PIN_FILE, DM_VERSION,         DM_LIST_DEVICES,
    DM_DEV_STATUS,     DM_TABLE_STATUS,       DM_TABLE_DEPS,      FIONBIO,
    LOOP_GET_STATUS64, BTRFS_IOC_FS_INFO,     BTRFS_IOC_DEV_INFO, BTRFS_IOC_TREE_SEARCH_V2,
};

const std::map<long, const char*> kNames = {
    {SYS_openat, "openat"},
    {SYS_swapon, "swapon"},
    {SYS_swapoff, "swapoff"},
    {SYS_shmget, "shmget"},
    {SYS_shmctl, "shmctl"},
    {SYS_ioctl, "ioctl"},
    {SYS_fcntl, "fcntl"},
    {SYS_flock, "flock"},
    {SYS_write, "write"},
    {SYS_pwrite64, "pwrite"},
    {SYS_ftruncate, "ftruncate"},
    {SYS_fsync, "fsync"},
    {SYS_fsetxattr, "fsetxattr"},
    {SYS_fremovexattr, "fremovexattr"},
    {SYS_unlink, "unlink"},
    {SYS_mkdir, "mkdir"},
    {SYS_rmdir, "rmdir"},
    {SYS_mknod, "mknod"},
    {SYS_mknodat, "mknodat"},
    {SYS_symlink, "symlink"},
    {SYS_fadvise64, "fadvise64"},
    {SYS_semget, "semget"},
    {SYS_semctl, "semctl"},
    {SYS_semtimedop, "semop"},
    {SYS_sync_file_range, "sync_file_range"},
    {SYS_fallocate, "fallocate"},
    {SYS_renameat2, "renameat2"},
    {SYS_chmod, "chmod"},
    {SYS_chown, "chown"},
};

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "kill-at: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

// A system call on its way into the kernel.
struct Call {
  long number;
  std::array<uint64_t, 3> arguments;
};

std::string TextAt(pid_t pid, uint64_t address) {
  std::array<char, 32> text = {};
  struct iovec here = {text.data(), text.size() - 1};
  struct iovec there = {reinterpret_cast<void*>(address), text.size() - 1};
  if (process_vm_readv(pid, &here, 1, &there, 1, 0) < 0) return "";
  return text.data();
}

bool LooksAt(pid_t pid, const Call& call, const char* mark) {
  const auto& [first, second, third] = call.arguments;
  if (call.number == SYS_access || call.number == SYS_stat) return TextAt(pid, first) == mark;
  if (call.number == SYS_faccessat || call.number == SYS_faccessat2 ||
      call.number == SYS_newfstatat || call.number == SYS_statx) {
    return TextAt(pid, second) == mark;
  }
  return false;
}

// Whether a descriptor is one of those that threads of a process wake each other with.
bool IsOwn(pid_t pid, uint64_t fd) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  std::array<char, 64> target = {};
  if (readlink(path.c_str(), target.data(), target.size() - 1) < 0) return false;
  return std::strncmp(target.data(), "anon_inode:", 11) == 0 ||
         std::strncmp(target.data(), "pipe:", 5) == 0;
}

bool MayChangeSomething(pid_t pid, const Call& call) {
  const auto& [first, second, third] = call.arguments;
  switch (call.number) {
    case SYS_openat:
      return (third & (O_CREAT | O_TRUNC)) != 0;
    case SYS_ioctl:
      return !kLookingIoctls.contains(static_cast<uint32_t>(second));
    case SYS_fcntl:
      return second == F_SETLEASE;
    case SYS_semctl:
      return third == IPC_RMID || third == SETVAL;
    case SYS_write:
      return !IsOwn(pid, first);
    default:
      return !kHarmless.contains(call.number);
  }
}

void Print(const Call& call) {
  const auto name = kNames.find(call.number);
  if (name != kNames.end()) {
    std::printf("%s", name->second);
  } else {
    std::printf("call %ld", call.number);
  }
  if (call.number == SYS_ioctl) std::printf(" 0x%lx", call.arguments[1]);
  std::printf("\n");
}

// Goes along with the calls of a process until it ends.
class Tracer {
 public:
  Tracer(pid_t process, int go, uint64_t target) : process_(process), go_(go), target_(target) {}

  int Run() {
    for (;;) {
      int status = 0;
      const pid_t thread = waitpid(-1, &status, __WALL);
      if (thread < 0) Die("waitpid");
      if (WIFEXITED(status) || WIFSIGNALED(status)) {
        if (thread != process_) continue;
        if (target_ == 0 || count_ < target_) std::printf("%lu calls in all\n", count_);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
      }
      const int signal = WSTOPSIG(status);
      if (signal == SIGUSR2) {
        StopAtCalls(thread);
        continue;
      }
      constexpr int kSyscallStop = SIGTRAP | 0x80;
      if (signal == kSyscallStop) OnSyscall(thread);
      // New threads start with a stop of their own, and events come as traps: neither is for them.
      const bool own = signal == kSyscallStop || signal == SIGSTOP || signal == SIGTRAP;
      ptrace(resume_, thread, nullptr, own ? 0 : signal);
    }
  }

 private:
  // From now on, all threads stop at their calls. One of them has stopped already.
  void StopAtCalls(pid_t stopped) {
    resume_ = PTRACE_SYSCALL;
    const std::string tasks = "/proc/" + std::to_string(process_) + "/task";
    for (const auto& task : std::filesystem::directory_iterator(tasks)) {
      const pid_t thread = std::stoi(task.path().filename());
      if (thread == stopped) continue;
      if (tgkill(process_, thread, SIGSTOP) < 0) Die("tgkill");
      // It may stop for something else first, and for this later.
      if (waitpid(thread, nullptr, __WALL) < 0) Die("waitpid");
      ptrace(PTRACE_SYSCALL, thread, nullptr, nullptr);
    }
    ptrace(PTRACE_SYSCALL, stopped, nullptr, nullptr);
    if (write(go_, "", 1) != 1) Die("write");
  }

  void OnSyscall(pid_t thread) {
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, thread, nullptr, &registers) < 0) return;
    // What the kernel puts there on entry.
    if (registers.rax != static_cast<uint64_t>(-ENOSYS)) return;
    const Call call = {static_cast<long>(registers.orig_rax),
                       {registers.rdi, registers.rsi, registers.rdx}};
    if (LooksAt(process_, call, "/mark/begin")) counting_ = true;
    if (LooksAt(process_, call, "/mark/end")) counting_ = false;
    if (!counting_ || !MayChangeSomething(process_, call)) return;
    if (++count_ != target_) return;
    Print(call);
    kill(process_, SIGKILL);
  }

  pid_t process_;
  int go_;
  enum __ptrace_request resume_ = PTRACE_CONT;
  uint64_t target_;
  uint64_t count_ = 0;
  bool counting_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: kill-at N COMMAND [ARG ...]\n");
    return 2;
  }
  std::array<int, 2> go = {};
  if (pipe2(go.data(), O_CLOEXEC) < 0) Die("pipe2");
  const pid_t process = fork();
  if (process < 0) Die("fork");
  if (process == 0) {
    if (dup2(go[0], STDIN_FILENO) < 0) Die("dup2");
    setenv("KILL_AT", "1", 1);
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    execvp(argv[2], argv + 2);
    Die(argv[2]);
  }
  int status = 0;
  if (waitpid(process, &status, 0) < 0) Die("waitpid");
  constexpr long kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;
  if (ptrace(PTRACE_SETOPTIONS, process, nullptr, kOptions) < 0) Die("PTRACE_SETOPTIONS");
  ptrace(PTRACE_CONT, process, nullptr, nullptr);
  return Tracer(process, go[1], std::strtoull(argv[1], nullptr, 10)).Run();
}
