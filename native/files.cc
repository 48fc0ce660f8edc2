#include "files.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>

namespace dmloop {

Result<Nothing> Sync(int fd) {
  if (fsync(fd) < 0) return LastFailure("fsync");
  return Nothing{};
}

Result<Nothing> Close(UniqueFd fd) {
  if (close(fd.release()) < 0) return LastFailure("close");
  return Nothing{};
}

Result<UniqueFd> Reopen(int fd, int flags) {
  const std::string self = "/proc/self/fd/" + std::to_string(fd);
  UniqueFd again(open(self.c_str(), flags | O_CLOEXEC));
  if (!again.valid()) return LastFailure("open");
  return again;
}

Result<std::string> PathOf(int fd) {
  const std::string self = "/proc/self/fd/" + std::to_string(fd);
  std::array<char, PATH_MAX> path;
  const ssize_t size = readlink(self.c_str(), path.data(), path.size());
  if (size < 0) return LastFailure("readlink", self);
  return std::string(path.data(), static_cast<size_t>(size));
}

Result<Nothing> MakeBlockNode(const std::string& path, uint32_t major, uint32_t minor) {
  // The mode that udev's rules give a disk, less the group, whose number differs between systems.
  constexpr mode_t kMode = S_IFBLK | 0600;
  if (mknod(path.c_str(), kMode, makedev(major, minor)) < 0) return LastFailure("mknod");
  return Nothing{};
}

Result<Nothing> DropCache(int fd) {
  // It returns the error instead of setting errno.
  const int error = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  if (error != 0) return Failure{error, "posix_fadvise"};
  return Nothing{};
}

}  // namespace dmloop
