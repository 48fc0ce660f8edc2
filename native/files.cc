#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace dmloop {

Result<Nothing> Sync(int fd) {
  if (fsync(fd) < 0) return LastFailure("fsync");
  return Nothing{};
}

Result<Nothing> Close(UniqueFd fd) {
  if (close(fd.release()) < 0) return LastFailure("close");
  return Nothing{};
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
