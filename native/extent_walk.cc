#include "extent_walk.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstddef>
#include <memory>

#include "btrfs.h"
#include "progress.h"

namespace dmloop {

bool SameKind(uint32_t flags, uint32_t other) {
  constexpr uint32_t kUnjudged = FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED;
  return ((flags ^ other) & ~kUnjudged) == 0;
}

void MapMaker::NoteHole(uint64_t until) {
  if (until > cursor_) map_.holes.Note(cursor_, until - cursor_);
  cursor_ = until;
}

Ranges& MapMaker::Flagged(uint32_t flags) {
  // Extents with the same flags come in long runs.
  auto& flagged = map_.flagged;
  if (last_flagged_ < flagged.size() && flagged[last_flagged_].first == flags) {
    return flagged[last_flagged_].second;
  }
  last_flagged_ = 0;
  while (last_flagged_ < flagged.size() && flagged[last_flagged_].first != flags) last_flagged_++;
  if (last_flagged_ == flagged.size()) flagged.push_back({flags, {}});
  return flagged[last_flagged_].second;
}

void MapMaker::operator()(const Extent& extent) {
  NoteHole(extent.logical);
  map_.extents.Append(extent);
  cursor_ = extent.logical + extent.length;
  if (extent.flags != 0) Flagged(extent.flags).Note(extent.logical, extent.length);
  if ((extent.logical | extent.physical | extent.length) % block_size_ != 0) {
    map_.unaligned.Note(extent.logical, extent.length);
  }
}

ExtentMap MapMaker::Finish(uint64_t end) {
  NoteHole(end);
  return std::move(map_);
}

namespace {

// One request buffer, reused for every batch so that it stays in the cache.
class FiemapBuffer {
 public:
  FiemapBuffer() : bytes_(std::make_unique_for_overwrite<std::byte[]>(kSize)) {}

  struct fiemap* request() { return reinterpret_cast<struct fiemap*>(bytes_.get()); }
  const struct fiemap_extent* extents() const {
    return reinterpret_cast<const struct fiemap_extent*>(bytes_.get() + sizeof(struct fiemap));
  }

 private:
  static constexpr size_t kSize =
      sizeof(struct fiemap) + kExtentBatch * sizeof(struct fiemap_extent);
  std::unique_ptr<std::byte[]> bytes_;
};

template <typename Sink>
std::optional<Failure> WalkFiemap(int fd, ExtentMerger<Sink>& merger) {
  FiemapBuffer buffer;
  // FIEMAP_EXTENT_LAST cannot be trusted: some filesystems set it on the last extent of the
  // requested range, and f2fs did not always set it. Only a covered range or an empty answer ends
  // the walk.
  while (merger.cursor() < merger.end()) {
    const uint64_t start = merger.cursor();
    struct fiemap* request = buffer.request();
    *request = {};
    request->fm_start = start;
    request->fm_length = merger.end() - start;
    request->fm_extent_count = kExtentBatch;
    Entering("FS_IOC_FIEMAP");
    if (ioctl(fd, FS_IOC_FIEMAP, request) < 0) return LastFailure("FS_IOC_FIEMAP");
    const uint32_t mapped = request->fm_mapped_extents;
    if (mapped == 0) break;
    for (uint32_t i = 0; i < mapped; i++) {
      const struct fiemap_extent& found = buffer.extents()[i];
      if (!merger.Add({found.fe_logical, found.fe_physical, found.fe_length, found.fe_flags})) {
        return Failure{EOVERFLOW, "FS_IOC_FIEMAP"};
      }
    }
    // A filesystem that answers without any progress would keep this loop running for ever.
    if (merger.cursor() == start) return Failure{EIO, "FS_IOC_FIEMAP"};
  }
  return std::nullopt;
}

template <typename Sink>
std::optional<Failure> WalkFibmap(int fd, ExtentMerger<Sink>& merger) {
  int block_size = 0;
  if (ioctl(fd, FIGETBSZ, &block_size) < 0) return LastFailure("FIGETBSZ");
  const auto block = static_cast<uint64_t>(block_size);
  struct statfs filesystem;
  if (fstatfs(fd, &filesystem) < 0) return LastFailure("fstatfs");
  // The blocks of a FAT cluster are contiguous, and statfs(2) returns its size: with clusters of
  // 64 KiB and blocks of 512 bytes this saves 127 of 128 calls.
  const auto cluster = static_cast<uint64_t>(filesystem.f_bsize);
  if (block == 0 || cluster == 0 || cluster % block != 0) return Failure{EINVAL, "FIGETBSZ"};

  for (uint64_t at = merger.cursor() - merger.cursor() % cluster; at < merger.end();
       at += cluster) {
    // The kernel's ioctl_fibmap (fs/ioctl.c) has an int: in goes the file's block, out comes the
    // disk's, 0 for a hole.
    if (at / block > INT32_MAX) return Failure{EOVERFLOW, "FIBMAP"};
    int number = static_cast<int>(at / block);
    Entering("FIBMAP");
    if (ioctl(fd, FIBMAP, &number) < 0) return LastFailure("FIBMAP");
    if (number == 0) continue;
    const uint64_t physical = static_cast<uint32_t>(number) * block;
    if (!merger.Add({at, physical, cluster, 0})) return Failure{EOVERFLOW, "FIBMAP"};
  }
  return std::nullopt;
}

// Translates the addresses of extents by chunks, and passes the extents on, in as many pieces.
template <typename Sink>
class ChunkTranslator {
 public:
  ChunkTranslator(std::vector<BtrfsChunk> chunks, Sink& sink)
      : chunks_(std::move(chunks)), sink_(sink) {}

  void operator()(Extent extent) {
    // What has no address, or one in an inode, has no chunk.
    constexpr uint32_t kNowhere =
        FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_DATA_INLINE;
    if ((extent.flags & kNowhere) != 0) {
      sink_(extent);
      return;
    }
    while (extent.length > 0) {
      const BtrfsChunk* const chunk = Find(extent.physical);
      Extent piece = extent;
      if (chunk != nullptr) {
        const uint64_t within = extent.physical - chunk->start;
        piece.length = std::min(extent.length, chunk->length - within);
        piece.physical = chunk->physical + within;
      }
      if (chunk == nullptr || !chunk->single) piece.flags |= kNotSingle;
      sink_(piece);
      extent.logical += piece.length;
      extent.physical += piece.length;
      extent.length -= piece.length;
    }
  }

 private:
  // The chunk that has an address.
  const BtrfsChunk* Find(uint64_t address) const {
    auto after = std::upper_bound(
        chunks_.begin(), chunks_.end(), address,
        [](uint64_t wanted, const BtrfsChunk& chunk) { return wanted < chunk.start; });
    if (after == chunks_.begin()) return nullptr;
    const BtrfsChunk& chunk = *--after;
    return address - chunk.start < chunk.length ? &chunk : nullptr;
  }

  std::vector<BtrfsChunk> chunks_;
  Sink& sink_;
};

// The extents of a range by FIEMAP, at the addresses of the device: neighbours on the device may be
// in different chunks, so they are merged once more.
template <typename Sink>
std::optional<Failure> WalkChunks(int fd, uint64_t offset, uint64_t length,
                                  ExtentMerger<Sink>& merger) {
  auto chunks = BtrfsChunks(fd);
  if (!chunks.ok()) return chunks.failure();
  bool fits = true;
  auto add = [&](const Extent& extent) { fits = fits && merger.Add(extent); };
  ChunkTranslator translator(std::move(chunks.value()), add);
  ExtentMerger<decltype(translator)> addresses(offset, length, translator);
  const auto failure = WalkFiemap(fd, addresses);
  addresses.Finish();
  if (!failure && !fits) return Failure{EOVERFLOW, "FS_IOC_FIEMAP"};
  return failure;
}

template <typename Sink>
std::optional<Failure> WalkBy(int fd, AddressCall call, uint64_t offset, uint64_t length,
                              ExtentMerger<Sink>& merger) {
  switch (call) {
    case AddressCall::kFibmap:
      return WalkFibmap(fd, merger);
    case AddressCall::kChunks:
      return WalkChunks(fd, offset, length, merger);
    default:
      return WalkFiemap(fd, merger);
  }
}

// Has a sink see the extents of a range.
template <typename Sink>
std::optional<Failure> Walk(int fd, AddressCall call, uint64_t offset, uint64_t length,
                            Sink& sink) {
  ExtentMerger<Sink> merger(offset, length, sink);
  const auto failure = WalkBy(fd, call, offset, length, merger);
  merger.Finish();
  return failure;
}

// Finds the first extent that is not what it was.
class Comparison {
 public:
  explicit Comparison(const ExtentList& extents) : before_(extents) {}

  void operator()(const Extent& now) {
    if (moved_) return;
    const Extent* was = before_.Next();
    if (was == nullptr) {
      moved_ = now.logical;
    } else if (was->logical != now.logical || was->physical != now.physical ||
               was->length != now.length || was->flags != now.flags) {
      moved_ = was->logical < now.logical ? was->logical : now.logical;
    }
  }

  std::optional<uint64_t> Finish() {
    if (moved_) return moved_;
    // What is left of it has no address any more.
    const Extent* left = before_.Next();
    return left != nullptr ? std::optional(left->logical) : std::nullopt;
  }

 private:
  ExtentList::Reader before_;
  std::optional<uint64_t> moved_;
};

}  // namespace

Result<ExtentMap> WalkExtents(int fd, AddressCall call, uint64_t offset, uint64_t length,
                              uint64_t block_size) {
  MapMaker map(offset, block_size);
  if (auto failure = Walk(fd, call, offset, length, map)) return *failure;
  return map.Finish(offset + length);
}

Result<std::optional<uint64_t>> FindMovedByte(int fd, AddressCall call, uint64_t offset,
                                              uint64_t length, const ExtentList& extents) {
  Comparison comparison(extents);
  if (auto failure = Walk(fd, call, offset, length, comparison)) return *failure;
  return comparison.Finish();
}

}  // namespace dmloop
