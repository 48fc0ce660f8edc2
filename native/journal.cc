#include "journal.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/types.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>

#include "direct_io.h"
#include "files.h"
#include "progress.h"

namespace dmloop {

namespace {

// The superblock (fs/ext4/ext4.h, struct ext4_super_block), little-endian.
constexpr uint64_t kSuperblock = 1024;
constexpr size_t kIncompatible = 0x60;
constexpr uint32_t kInlineData = 0x8000;

// Since Linux 5.15 (fs/ext4/ext4.h, EXT4_IOC_CHECKPOINT); no header of the kernel's has it.
constexpr unsigned long kCheckpoint = _IOW('f', 43, __u32);

// What a child that shares this process's memory has come to.
struct Outcome {
  const char* volatile syscall = nullptr;
  volatile int error = 0;
};

[[noreturn]] void FreezeAndThaw(int fd, Outcome& outcome) {
  // So that it does not end with the process group of a terminal or a job.
  setsid();
  if (ioctl(fd, FIFREEZE, 0) < 0) {
    outcome.error = errno;
    outcome.syscall = "FIFREEZE";
  } else if (ioctl(fd, FITHAW, 0) < 0) {
    outcome.error = errno;
    outcome.syscall = "FITHAW";
  }
  _exit(0);
}

// Freezing a filesystem takes as long as writing out all of it. If this process were killed before
// it has thawed it, it would stay frozen; so a child does both, which a SIGKILL to this one leaves
// alone: vfork(2) waits in the kernel, killable, until the child has ended.
Result<Nothing> FreezeInChild(int fd) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // The handlers of Node's must not run in a child that shares its memory.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  Outcome outcome;
  Entering("FIFREEZE");
  const pid_t child = vfork();
  if (child == 0) FreezeAndThaw(fd, outcome);
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (child < 0) return Failure{error, "vfork"};
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (outcome.syscall != nullptr) return Failure{outcome.error, outcome.syscall};
  return Nothing{};
}

}  // namespace

Result<bool> HasInlineData(const std::string& device) {
  auto fd = Open(device, O_RDONLY);
  if (!fd.ok()) return fd.failure();
  std::array<std::byte, 4> features;
  auto read = ReadAtLeast(fd.value().get(), features, features.size(), kSuperblock + kIncompatible);
  if (!read.ok()) return read.failure();
  uint32_t bits = 0;
  for (size_t i = 0; i < features.size(); i++) {
    bits |= std::to_integer<uint32_t>(features[i]) << (8 * i);
  }
  return (bits & kInlineData) != 0;
}

Result<Nothing> FlushJournal(int fd) {
  __u32 flags = 0;
  Entering("EXT4_IOC_CHECKPOINT");
  if (ioctl(fd, kCheckpoint, &flags) == 0) return Nothing{};
  if (errno == ENODEV) {
    // There is no journal: buffers are written from the device's page cache.
    Entering("syncfs");
    if (syncfs(fd) < 0) return LastFailure("syncfs");
    return Nothing{};
  }
  if (errno != ENOTTY) return LastFailure("EXT4_IOC_CHECKPOINT");
  // Older kernels do it when a filesystem is frozen (ext4_freeze, fs/ext4/super.c).
  return FreezeInChild(fd);
}

}  // namespace dmloop
