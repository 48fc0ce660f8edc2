#include "files.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "unique_fd.h"

namespace dmloop {

Result<Nothing> TryLock(int fd) {
  if (flock(fd, LOCK_EX | LOCK_NB) < 0) return LastFailure("flock");
  return Nothing{};
}

Result<Nothing> MakeBlockNode(const std::string& path, uint32_t major, uint32_t minor) {
  // The mode that udev's rules give a disk, less the group, whose number differs between systems.
  constexpr mode_t kMode = S_IFBLK | 0600;
  if (mknod(path.c_str(), kMode, makedev(major, minor)) < 0) return LastFailure("mknod");
  return Nothing{};
}

Result<LoopBacking> GetLoopBacking(const std::string& path) {
  const UniqueFd device(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!device.valid()) return LastFailure("open");
  struct loop_info64 info = {};
  if (ioctl(device.get(), LOOP_GET_STATUS64, &info) < 0) return LastFailure("LOOP_GET_STATUS64");
  // The kernel's huge_encode_dev, which is glibc's dev_t as well.
  const dev_t number = info.lo_device;
  return LoopBacking{gnu_dev_major(number), gnu_dev_minor(number), info.lo_inode};
}

Result<Nothing> DropCache(int fd) {
  // It returns the error instead of setting errno.
  const int error = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  if (error != 0) return Failure{error, "posix_fadvise"};
  return Nothing{};
}

}  // namespace dmloop
