#include "file_facts.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include "btrfs.h"
#include "file_handle.h"
#include "guard.h"
#include "mounts.h"
#include "progress.h"
#include "statx.h"

namespace dmloop {

namespace {

#ifdef STATX_DIOALIGN
constexpr unsigned kWanted = STATX_BASIC_STATS | STATX_DIOALIGN;
#else
// The headers are older than Linux 6.1.
constexpr unsigned kWanted = STATX_BASIC_STATS;
#endif

// The answers of a filesystem that has no such ioctl; everything else is a failure worth telling.
bool Unsupported(int error) { return error == ENOTTY || error == EOPNOTSUPP || error == ENOSYS; }

}  // namespace

Result<FileFacts> Inspect(int fd) {
  FileFacts facts;
  struct statx stat;
  Entering("statx");
  if (statx(fd, "", AT_EMPTY_PATH, kWanted, &stat) < 0) return LastFailure("statx");
  facts.mode = stat.stx_mode;
  facts.uid = stat.stx_uid;
  facts.links = stat.stx_nlink;
  facts.size = stat.stx_size;
  facts.inode = stat.stx_ino;
  facts.number = {stat.stx_dev_major, stat.stx_dev_minor};
  facts.filesystem = facts.number;
  facts.device = facts.number;
  facts.attributes = stat.stx_attributes;
  facts.attributes_mask = stat.stx_attributes_mask;
#ifdef STATX_DIOALIGN
  if (stat.stx_mask & STATX_DIOALIGN) facts.direct_io = stat.stx_dio_offset_align != 0;
#endif

  struct statfs filesystem;
  Entering("fstatfs");
  if (fstatfs(fd, &filesystem) < 0) return LastFailure("fstatfs");
  facts.filesystem_magic = static_cast<uint64_t>(filesystem.f_type) & 0xffffffffU;
  // Of this mount and of the filesystem as a whole: the one may be so without the other.
  facts.mount_read_only = (filesystem.f_flags & ST_RDONLY) != 0;
  facts.filesystem_size = filesystem.f_blocks * static_cast<uint64_t>(filesystem.f_frsize);

  if (facts.filesystem_magic == BTRFS_SUPER_MAGIC) {
    if (const auto mount = MountOf(fd)) facts.filesystem = mount->number;
    const auto devices = BtrfsDevices(fd);
    if (!devices.empty()) facts.device = devices.front().number;
    facts.device_count = devices.size();
  }

  // A device node answers ioctls with its driver's, not the filesystem's.
  if (!S_ISREG(stat.stx_mode)) return facts;

  // The argument is an int, whatever the macro's `long` says (ioctl_iflags(2)).
  int flags = 0;
  Entering("FS_IOC_GETFLAGS");
  if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
    facts.inode_flags = static_cast<uint32_t>(flags);
  } else if (!Unsupported(errno)) {
    return LastFailure("FS_IOC_GETFLAGS");
  }
  struct fsxattr extended = {};
  if (ioctl(fd, FS_IOC_FSGETXATTR, &extended) == 0) {
    facts.extended_flags = extended.fsx_xflags;
  } else if (!Unsupported(errno)) {
    return LastFailure("FS_IOC_FSGETXATTR");
  }
  auto handle = GetHandle(fd);
  if (!handle.ok()) return handle.failure();
  facts.handle = std::move(handle.value());
  auto mark = GetMark(fd);
  if (!mark.ok()) return mark.failure();
  facts.mark = std::move(mark.value());
  return facts;
}

}  // namespace dmloop
