#include "files.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "progress.h"
#include "statx.h"

namespace dmloop {

namespace {

// What is written out in one step, at least; and how many steps a file takes, at most: a sparse one
// may be of any size.
constexpr off_t kSyncStep = off_t{16} << 20;
constexpr off_t kMostSteps = 4096;

// Has the kernel start to write a range, or wait until it is written.
bool WriteOut(int fd, off_t offset, off_t length, unsigned flags) {
  Entering("sync_file_range");
  return sync_file_range(fd, offset, length, flags) == 0;
}

}  // namespace

// Gigabytes may wait to be written. Step by step, one written while the next is under way, somebody
// who waits can tell a disk that is busy from one that is dead.
Result<Nothing> Sync(int fd) {
  // The size of a file, and of a device too.
  const off_t size = lseek(fd, 0, SEEK_END);
  const off_t step = std::max(kSyncStep, size / kMostSteps);
  for (off_t rest = size, last = 0; rest > 0; last = std::min(step, rest), rest -= last) {
    const off_t offset = size - rest;
    // An error that is told here is not told again by fsync (file_check_and_advance_wb_err in the
    // kernel).
    if (!WriteOut(fd, offset, std::min(step, rest), SYNC_FILE_RANGE_WRITE) ||
        (last > 0 && !WriteOut(fd, offset - last, last, SYNC_FILE_RANGE_WAIT_BEFORE))) {
      return LastFailure("sync_file_range");
    }
  }
  Entering("fsync");
  if (fsync(fd) < 0) return LastFailure("fsync");
  return Nothing{};
}

Result<Nothing> Close(UniqueFd fd) {
  Entering("close");
  if (close(fd.release()) < 0) return LastFailure("close");
  return Nothing{};
}

Result<UniqueFd> Open(const std::string& path, int flags) {
  Entering("open");
  // The mode is for what O_CREAT makes.
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (!fd.valid()) return LastFailure("open");
  return fd;
}

Result<UniqueFd> Reopen(int fd, int flags) {
  return Open("/proc/self/fd/" + std::to_string(fd), flags | O_NONBLOCK);
}

Result<std::string> PathOf(int fd) {
  const std::string self = "/proc/self/fd/" + std::to_string(fd);
  std::array<char, PATH_MAX> path;
  const ssize_t size = readlink(self.c_str(), path.data(), path.size());
  if (size < 0) return LastFailure("readlink", self);
  return std::string(path.data(), static_cast<size_t>(size));
}

Result<PathFacts> Identify(const std::string& path) {
  Entering("statx");
  struct statx stat;
  // None of this ever changes: a server that is gone need not be asked again.
  if (statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &stat) < 0) {
    return LastFailure("statx");
  }
  return PathFacts{S_ISBLK(stat.stx_mode), stat.stx_dev_major,  stat.stx_dev_minor,
                   stat.stx_ino,           stat.stx_rdev_major, stat.stx_rdev_minor};
}

Result<Nothing> MakeBlockNode(const std::string& path, uint32_t major, uint32_t minor) {
  // The mode that udev's rules give a disk, less the group, whose number differs between systems.
  constexpr mode_t kMode = S_IFBLK | 0600;
  if (mknod(path.c_str(), kMode, makedev(major, minor)) < 0) return LastFailure("mknod");
  return Nothing{};
}

Result<Nothing> DropCache(int fd) {
  // It returns the error instead of setting errno.
  Entering("posix_fadvise");
  const int error = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  if (error != 0) return Failure{error, "posix_fadvise"};
  return Nothing{};
}

}  // namespace dmloop
