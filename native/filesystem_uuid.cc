#include "filesystem_uuid.h"

#include <linux/ioctl.h>
#include <sys/ioctl.h>

#include <array>
#include <cstdint>
#include <span>

#include "btrfs.h"
#include "hex.h"
#include "progress.h"

namespace dmloop {

namespace {

using Uuid = std::array<uint8_t, 16>;

// fs/xfs/libxfs/xfs_fs.h, which no package has to have: struct xfs_fsop_geom_v1.
struct XfsGeometry {
  uint32_t sizes[8];
  uint64_t counts[4];
  Uuid uuid;
  uint32_t rest[7];
};
constexpr unsigned long kXfsGeometry = _IOR('X', 100, XfsGeometry);

// fs/ext4/ext4.h: struct fsuuid ends in as many bytes as it says, and the number counts none.
struct Ext4Uuid {
  uint32_t length;
  uint32_t flags;
  Uuid uuid;
};
constexpr unsigned long kExt4GetUuid = _IOC(_IOC_READ, 'f', 44, 2 * sizeof(uint32_t));

// linux/fs.h since Linux 6.9: FS_IOC_GETFSUUID and struct fsuuid2.
struct AnyUuid {
  uint8_t length;
  Uuid uuid;
};
constexpr unsigned long kGetUuid = _IOR(0x15, 0, AnyUuid);

std::string TextOf(const Uuid& uuid) { return HexOf(std::as_bytes(std::span(uuid))); }

}  // namespace

std::optional<std::string> UuidOf(int fd) {
  if (auto btrfs = BtrfsUuid(fd)) return btrfs;
  XfsGeometry xfs = {};
  Entering("XFS_IOC_FSGEOMETRY");
  if (ioctl(fd, kXfsGeometry, &xfs) == 0) return TextOf(xfs.uuid);
  Ext4Uuid ext4 = {sizeof(Uuid), 0, {}};
  Entering("EXT4_IOC_GETFSUUID");
  if (ioctl(fd, kExt4GetUuid, &ext4) == 0) return TextOf(ext4.uuid);
  AnyUuid any = {};
  Entering("FS_IOC_GETFSUUID");
  if (ioctl(fd, kGetUuid, &any) == 0 && any.length == sizeof(Uuid)) return TextOf(any.uuid);
  return std::nullopt;
}

}  // namespace dmloop
