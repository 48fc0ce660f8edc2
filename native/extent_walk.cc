#include "extent_walk.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstddef>
#include <memory>

#include "safe_integer.h"

namespace dmloop {

namespace {

// Neighbours are one extent unless a flag that somebody judges tells them apart. LAST and MERGED
// say how the filesystem answered, not what the blocks are.
constexpr uint32_t kUnjudgedFlags = FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED;

bool Continues(const Extent& last, const Extent& next) {
  return last.logical + last.length == next.logical &&
         last.physical + last.length == next.physical &&
         ((last.flags ^ next.flags) & ~kUnjudgedFlags) == 0;
}

// One request buffer, reused for every batch so that it stays in the cache.
class FiemapBuffer {
 public:
  FiemapBuffer() : bytes_(std::make_unique<std::byte[]>(kSize)) {}

  struct fiemap* request() { return reinterpret_cast<struct fiemap*>(bytes_.get()); }
  const struct fiemap_extent* extents() const {
    return reinterpret_cast<const struct fiemap_extent*>(bytes_.get() + sizeof(struct fiemap));
  }

 private:
  static constexpr size_t kSize =
      sizeof(struct fiemap) + kExtentBatch * sizeof(struct fiemap_extent);
  std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace

void ExtentCollector::Flush() {
  if (!pending_) return;
  map_.rows.Append(last_.logical, last_.physical, last_.length, last_.flags);
  map_.flags |= last_.flags;
  map_.bits |= last_.logical | last_.physical | last_.length;
  pending_ = false;
}

void ExtentCollector::NoteHole(uint64_t until) {
  if (until <= cursor_) return;
  map_.holes.Append(cursor_, until - cursor_);
}

void ExtentCollector::Append(const Extent& extent) {
  if (pending_ && Continues(last_, extent)) {
    last_.length += extent.length;
    last_.flags |= extent.flags;
    return;
  }
  Flush();
  last_ = extent;
  pending_ = true;
}

bool ExtentCollector::Add(Extent extent) {
  if (extent.length > kMaxSafeInteger || extent.logical > kMaxSafeInteger - extent.length ||
      extent.physical > kMaxSafeInteger - extent.length) {
    return false;
  }
  const uint64_t from = std::max(extent.logical, cursor_);
  const uint64_t to = std::min(extent.logical + extent.length, end_);
  if (from >= to) return true;
  NoteHole(from);
  Append({from, extent.physical + (from - extent.logical), to - from, extent.flags});
  cursor_ = to;
  return true;
}

ExtentMap ExtentCollector::Finish() {
  NoteHole(end_);
  Flush();
  return std::move(map_);
}

namespace {

Result<ExtentMap> WalkFiemap(int fd, uint64_t offset, uint64_t length) {
  ExtentCollector collector(offset, length);
  FiemapBuffer buffer;
  const uint64_t end = offset + length;
  // FIEMAP_EXTENT_LAST may mean the last extent of the *asked* range, and f2fs has left it out:
  // only a covered range or an empty answer ends the walk (FACTS section 3).
  while (collector.cursor() < end) {
    const uint64_t start = collector.cursor();
    struct fiemap* request = buffer.request();
    *request = {};
    request->fm_start = start;
    request->fm_length = end - start;
    request->fm_extent_count = kExtentBatch;
    if (ioctl(fd, FS_IOC_FIEMAP, request) < 0) return LastFailure("FS_IOC_FIEMAP");
    const uint32_t mapped = request->fm_mapped_extents;
    if (mapped == 0) break;
    for (uint32_t i = 0; i < mapped; i++) {
      const struct fiemap_extent& found = buffer.extents()[i];
      if (!collector.Add({found.fe_logical, found.fe_physical, found.fe_length, found.fe_flags})) {
        return Failure{EOVERFLOW, "FS_IOC_FIEMAP"};
      }
    }
    // A filesystem that answers without getting further would keep this loop for ever.
    if (collector.cursor() == start) return Failure{EIO, "FS_IOC_FIEMAP"};
  }
  return collector.Finish();
}

Result<ExtentMap> WalkFibmap(int fd, uint64_t offset, uint64_t length) {
  int block_size = 0;
  if (ioctl(fd, FIGETBSZ, &block_size) < 0) return LastFailure("FIGETBSZ");
  const auto block = static_cast<uint64_t>(block_size);
  struct statfs filesystem;
  if (fstatfs(fd, &filesystem) < 0) return LastFailure("fstatfs");
  // The blocks of a cluster lie together by the definition of FAT, and statfs(2) gives its size:
  // with 64 KiB clusters of 512-byte blocks this asks 128 times less.
  const auto cluster = static_cast<uint64_t>(filesystem.f_bsize);
  if (block == 0 || cluster == 0 || cluster % block != 0) return Failure{EINVAL, "FIGETBSZ"};

  ExtentCollector collector(offset, length);
  const uint64_t end = offset + length;
  for (uint64_t at = offset - offset % cluster; at < end; at += cluster) {
    // The kernel's ioctl_fibmap (fs/ioctl.c) has an int: in goes the file's block, out comes the
    // disk's, 0 for a hole.
    if (at / block > INT32_MAX) return Failure{EOVERFLOW, "FIBMAP"};
    int number = static_cast<int>(at / block);
    if (ioctl(fd, FIBMAP, &number) < 0) return LastFailure("FIBMAP");
    if (number == 0) continue;
    const uint64_t physical = static_cast<uint32_t>(number) * block;
    if (!collector.Add({at, physical, cluster, 0})) return Failure{EOVERFLOW, "FIBMAP"};
  }
  return collector.Finish();
}

}  // namespace

Result<ExtentMap> WalkExtents(int fd, AddressCall call, uint64_t offset, uint64_t length) {
  return call == AddressCall::kFibmap ? WalkFibmap(fd, offset, length)
                                      : WalkFiemap(fd, offset, length);
}

Result<std::optional<uint64_t>> FindMovedByte(int fd, AddressCall call, uint64_t offset,
                                              uint64_t length, std::span<const double> rows) {
  auto again = WalkExtents(fd, call, offset, length);
  if (!again.ok()) return again.failure();
  const std::span<const double> now = again.value().rows.span();
  const auto [was, is] = std::mismatch(rows.begin(), rows.end(), now.begin(), now.end());
  if (was == rows.end() && is == now.end()) return std::optional<uint64_t>();
  // The row that differs, in whichever table still has one, starts at its first column.
  const std::span<const double> table = was == rows.end() ? now : rows;
  const auto row = static_cast<size_t>(was - rows.begin()) / kExtentColumns * kExtentColumns;
  return std::optional<uint64_t>(static_cast<uint64_t>(table[row]));
}

}  // namespace dmloop
