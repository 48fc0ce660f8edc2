#include "guard.h"

#include <fcntl.h>
#include <linux/f2fs.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>

#include "progress.h"

namespace dmloop {

namespace {

// Only a privileged process can see or change attributes of this class (xattr(7)).
constexpr const char* kMark = "trusted.dmloop";

Result<Nothing> SetFlag(int fd, int flag, bool on) {
  // The argument is an int, whatever the macro's `long` says (ioctl_iflags(2)).
  int flags = 0;
  if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0) return LastFailure("FS_IOC_GETFLAGS");
  flags = on ? flags | flag : flags & ~flag;
  Entering("FS_IOC_SETFLAGS");
  if (ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0) return LastFailure("FS_IOC_SETFLAGS");
  return Nothing{};
}

}  // namespace

Result<Nothing> TakeLease(int fd, bool exclusive) {
  // Whoever opens the file against the lease meanwhile has the kernel send us a signal. The default
  // one, SIGIO, ends a process that does not handle it; SIGURG is ignored.
  if (fcntl(fd, F_SETSIG, SIGURG) < 0) return LastFailure("F_SETSIG");
  Entering("F_SETLEASE");
  if (fcntl(fd, F_SETLEASE, exclusive ? F_WRLCK : F_RDLCK) < 0) return LastFailure("F_SETLEASE");
  return Nothing{};
}

Result<bool> HasLease(int fd, bool exclusive) {
  // While a lease is being broken, F_GETLEASE gives what it is to become: F_UNLCK, or F_RDLCK where
  // a reader waits for a write lease.
  const int lease = fcntl(fd, F_GETLEASE);
  if (lease < 0) return LastFailure("F_GETLEASE");
  return lease == (exclusive ? F_WRLCK : F_RDLCK);
}

Result<bool> EndLease(int fd, bool exclusive) {
  auto whole = HasLease(fd, exclusive);
  if (fcntl(fd, F_SETLEASE, F_UNLCK) < 0) return LastFailure("F_SETLEASE");
  return whole;
}

Result<Nothing> SetImmutable(int fd, bool immutable) {
  return SetFlag(fd, FS_IMMUTABLE_FL, immutable);
}

Result<Nothing> SetInPlace(int fd, bool in_place) { return SetFlag(fd, FS_NOCOW_FL, in_place); }

Result<Nothing> SetAccess(int fd, uint32_t uid, uint32_t mode) {
  // The owner first: to change it takes the set-id bits away (chown(2)).
  if (fchown(fd, uid, static_cast<gid_t>(-1)) < 0) return LastFailure("fchown");
  if (fchmod(fd, mode) < 0) return LastFailure("fchmod");
  return Nothing{};
}

Result<Nothing> SetPinned(int fd, bool pinned) {
  uint32_t pin = pinned ? 1 : 0;
  Entering("F2FS_IOC_SET_PIN_FILE");
  if (ioctl(fd, F2FS_IOC_SET_PIN_FILE, &pin) < 0) return LastFailure("F2FS_IOC_SET_PIN_FILE");
  return Nothing{};
}

Result<uint32_t> GetPinCount(int fd) {
  uint32_t count = 0;
  if (ioctl(fd, F2FS_IOC_GET_PIN_FILE, &count) < 0) return LastFailure("F2FS_IOC_GET_PIN_FILE");
  return count;
}

Result<Nothing> LockFile(int fd, bool exclusive) {
  if (flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0) return LastFailure("flock");
  return Nothing{};
}

Result<std::optional<std::string>> GetMark(int fd) {
  std::array<char, 256> text;
  Entering("fgetxattr");
  const ssize_t size = fgetxattr(fd, kMark, text.data(), text.size());
  if (size >= 0) return std::optional(std::string(text.data(), static_cast<size_t>(size)));
  if (errno == ERANGE) return std::optional(std::string());
  if (errno == ENODATA || errno == EOPNOTSUPP || errno == ENOSYS)
    return std::optional<std::string>();
  return LastFailure("fgetxattr");
}

Result<Nothing> SetMark(int fd, const std::string& mark) {
  Entering("fsetxattr");
  if (fsetxattr(fd, kMark, mark.data(), mark.size(), 0) < 0) return LastFailure("fsetxattr");
  return Nothing{};
}

Result<Nothing> RemoveMark(int fd) {
  Entering("fremovexattr");
  if (fremovexattr(fd, kMark) < 0 && errno != ENODATA) return LastFailure("fremovexattr");
  return Nothing{};
}

}  // namespace dmloop
