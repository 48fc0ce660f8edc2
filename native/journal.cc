#include "journal.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/types.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
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
  Entering("FIFREEZE");
  if (ioctl(fd, FIFREEZE, 0) < 0) return LastFailure("FIFREEZE");
  Entering("FITHAW");
  if (ioctl(fd, FITHAW, 0) < 0) return LastFailure("FITHAW");
  return Nothing{};
}

}  // namespace dmloop
