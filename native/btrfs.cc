#include "btrfs.h"

#include <endian.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string_view>

#include "files.h"
#include "hex.h"
#include "progress.h"
#include "small_files.h"

namespace dmloop {

namespace {

bool IsBtrfs(int fd) {
  struct statfs filesystem;
  Entering("fstatfs");
  return fstatfs(fd, &filesystem) == 0 &&
         static_cast<uint64_t>(filesystem.f_type) == BTRFS_SUPER_MAGIC;
}

std::optional<struct btrfs_ioctl_fs_info_args> InfoOf(int fd) {
  // Another filesystem may have an ioctl of its own with this number.
  if (!IsBtrfs(fd)) return std::nullopt;
  struct btrfs_ioctl_fs_info_args info = {};
  Entering("BTRFS_IOC_FS_INFO");
  if (ioctl(fd, BTRFS_IOC_FS_INFO, &info) < 0) return std::nullopt;
  return info;
}

// As the kernel names folders after it.
std::string Dashed(std::string_view hex) {
  std::string text(hex);
  for (const size_t place : {8, 13, 18, 23}) text.insert(place, 1, '-');
  return text;
}

// The devices of a btrfs with a UUID, as sysfs has them.
std::vector<DeviceNumber> ListedDevices(const std::string& uuid) {
  const std::string folder = "/sys/fs/btrfs/" + Dashed(uuid) + "/devices/";
  std::vector<DeviceNumber> numbers;
  for (const std::string& name : NamesIn(folder)) {
    auto text = ReadText(folder + name + "/dev");
    if (!text.ok() || !text.value()) continue;
    const std::string_view line = *text.value();
    if (const auto number = ParseDeviceNumber(line.substr(0, line.find('\n')))) {
      numbers.push_back(*number);
    }
  }
  return numbers;
}

std::optional<DeviceNumber> NumberAt(const std::string& path) {
  auto facts = Identify(path);
  if (!facts.ok() || !facts.value().is_block_device) return std::nullopt;
  return DeviceNumber{facts.value().major, facts.value().minor};
}

// What one search returns at most. Chunks are of a GiB or more: all of a disk's fit, as a rule.
constexpr size_t kAnswer = 64 << 10;

template <typename T>
T At(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// One item of the chunk tree (fs/btrfs/volumes.c, read_one_chunk). Nothing where it is cut off.
std::optional<BtrfsChunk> ParseChunk(uint64_t start, uint64_t device, const std::byte* item,
                                     size_t size) {
  if (size < sizeof(struct btrfs_chunk)) return std::nullopt;
  const auto chunk = At<struct btrfs_chunk>(item);
  const uint64_t type = le64toh(chunk.type);
  const bool single = (type & BTRFS_BLOCK_GROUP_PROFILE_MASK) == 0 &&
                      le16toh(chunk.num_stripes) == 1 && le64toh(chunk.stripe.devid) == device;
  return BtrfsChunk{start, le64toh(chunk.length), le64toh(chunk.stripe.offset), single};
}

}  // namespace

std::optional<std::string> BtrfsUuid(int fd) {
  const auto info = InfoOf(fd);
  return info ? std::optional(HexOf(std::as_bytes(std::span(info->fsid)))) : std::nullopt;
}

std::vector<BtrfsDevice> BtrfsDevices(int fd) {
  const auto info = InfoOf(fd);
  if (!info) return {};
  const auto listed = ListedDevices(HexOf(std::as_bytes(std::span(info->fsid))));
  std::vector<BtrfsDevice> devices;
  for (uint64_t id = 1; id <= info->max_id; id++) {
    struct btrfs_ioctl_dev_info_args device = {};
    device.devid = id;
    Entering("BTRFS_IOC_DEV_INFO");
    if (ioctl(fd, BTRFS_IOC_DEV_INFO, &device) < 0) continue;
    // The path is that of whoever mounted it, and may be another device's here.
    auto number = NumberAt(reinterpret_cast<const char*>(device.path));
    const bool is_listed = number && std::count(listed.begin(), listed.end(), *number) > 0;
    if (!is_listed && listed.size() == 1) number = listed.front();
    if (is_listed || listed.size() == 1) devices.push_back({id, *number});
  }
  return devices;
}

Result<Nothing> SettleExtents(int fd) {
  if (!IsBtrfs(fd)) return Nothing{};
  // With this flag it does (btrfs_fiemap, fs/btrfs/inode.c). No extent is asked for.
  struct fiemap request = {};
  request.fm_length = FIEMAP_MAX_OFFSET;
  request.fm_flags = FIEMAP_FLAG_SYNC;
  Entering("FS_IOC_FIEMAP");
  if (ioctl(fd, FS_IOC_FIEMAP, &request) < 0) return LastFailure("FS_IOC_FIEMAP");
  return Nothing{};
}

Result<std::vector<BtrfsChunk>> BtrfsChunks(int fd) {
  using Arguments = struct btrfs_ioctl_search_args_v2;
  const auto room = std::make_unique<std::byte[]>(sizeof(Arguments) + kAnswer);
  auto& arguments = *reinterpret_cast<Arguments*>(room.get());
  const auto devices = BtrfsDevices(fd);
  if (devices.empty()) return Failure{ENODEV, "BTRFS_IOC_DEV_INFO"};
  const uint64_t device = devices.front().id;
  std::vector<BtrfsChunk> chunks;
  for (uint64_t from = 0;;) {
    std::memset(room.get(), 0, sizeof(Arguments));
    arguments.buf_size = kAnswer;
    struct btrfs_ioctl_search_key& key = arguments.key;
    key.tree_id = BTRFS_CHUNK_TREE_OBJECTID;
    key.min_objectid = key.max_objectid = BTRFS_FIRST_CHUNK_TREE_OBJECTID;
    key.min_type = key.max_type = BTRFS_CHUNK_ITEM_KEY;
    key.min_offset = from;
    key.max_offset = std::numeric_limits<uint64_t>::max();
    key.max_transid = std::numeric_limits<uint64_t>::max();
    key.nr_items = std::numeric_limits<uint32_t>::max();
    Entering("BTRFS_IOC_TREE_SEARCH_V2");
    if (ioctl(fd, BTRFS_IOC_TREE_SEARCH_V2, &arguments) < 0) {
      return LastFailure("BTRFS_IOC_TREE_SEARCH_V2");
    }
    if (key.nr_items == 0) return chunks;
    const std::byte* at = room.get() + sizeof(Arguments);
    for (uint32_t item = 0; item < key.nr_items; item++) {
      const auto header = At<struct btrfs_ioctl_search_header>(at);
      at += sizeof(header);
      if (header.type == BTRFS_CHUNK_ITEM_KEY) {
        const auto chunk = ParseChunk(header.offset, device, at, header.len);
        if (!chunk) return Failure{EIO, "BTRFS_IOC_TREE_SEARCH_V2"};
        chunks.push_back(*chunk);
      }
      at += header.len;
      from = header.offset + 1;
    }
  }
}

}  // namespace dmloop
