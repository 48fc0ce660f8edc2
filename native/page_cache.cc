#include "page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "direct_io.h"
#include "files.h"
#include "progress.h"
#include "unique_fd.h"

namespace dmloop {

namespace {

// What is asked about at a time: in a file of a TiB of which nothing is cached, a few thousand
// calls.
constexpr uint64_t kWindow = 256 << 20;
// What is read at a time where something is cached; a multiple of every page size.
constexpr uint64_t kChunk = 256 << 10;

constexpr uint64_t RoundUp(uint64_t size) {
  return (size + kDirectAlignment - 1) / kDirectAlignment * kDirectAlignment;
}

// linux/mman.h and the system call's number, since Linux 6.5 and on all architectures but alpha.
constexpr long kCachestat = 451;
struct CachestatRange {
  uint64_t offset;
  uint64_t length;
};
struct Cachestat {
  uint64_t cached;
  uint64_t dirty;
  uint64_t writeback;
  uint64_t evicted;
  uint64_t recently_evicted;
};

// A range of a file in our address space, to ask about and never to touch.
class Mapping {
 public:
  Mapping(int fd, uint64_t offset, uint64_t length)
      : start_(mmap(nullptr, length, PROT_NONE, MAP_SHARED, fd, static_cast<off_t>(offset))),
        length_(length) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (valid()) munmap(start_, length_);
  }
  bool valid() const { return start_ != MAP_FAILED; }
  void* start() const { return start_; }

 private:
  void* start_;
  uint64_t length_;
};

// By mincore(2), which goes through the range page by page.
Result<bool> IsMappableCached(int fd, uint64_t offset, uint64_t length) {
  const Mapping mapping(fd, offset, length);
  if (!mapping.valid()) return LastFailure("mmap");
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((length + page - 1) / page);
  if (mincore(mapping.start(), length, pages.data()) < 0) return LastFailure("mincore");
  return std::any_of(pages.begin(), pages.end(), [](unsigned char state) { return state & 1; });
}

// Whether any page of a range is in memory.
Result<bool> IsCached(int fd, uint64_t offset, uint64_t length) {
  Entering("mincore");
  CachestatRange range{offset, length};
  Cachestat found{};
  if (syscall(kCachestat, fd, &range, &found, 0) == 0) return found.cached > 0;
  return IsMappableCached(fd, offset, length);
}

// A file as it is cached, and as it is on the disk.
struct Sides {
  int cached;
  UniqueFd disk;
  DirectBuffer in_memory = NewDirectBuffer(kChunk);
  DirectBuffer on_disk = NewDirectBuffer(kChunk);
};

Result<Sides> OpenSides(int fd) {
  auto disk = Reopen(fd, O_RDONLY | O_DIRECT);
  if (!disk.ok()) return disk.failure();
  // Without readahead only what is compared comes in.
  const int error = posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  if (error != 0) return Failure{error, "posix_fadvise"};
  return Sides{fd, std::move(disk.value())};
}

// How many bytes from the start of a chunk are the same; `size` when all are.
Result<uint64_t> CountSame(const Sides& sides, uint64_t offset, uint64_t size) {
  // The disk first: a direct read has the kernel write out what is dirty of the range before, which
  // is newer than the disk until then.
  std::byte* const on_disk = sides.on_disk.get();
  auto first = ReadAtLeast(sides.disk.get(), {on_disk, RoundUp(size)}, size, offset);
  if (!first.ok()) return first.failure();
  std::byte* const in_memory = sides.in_memory.get();
  auto second = ReadAtLeast(sides.cached, {in_memory, size}, size, offset);
  if (!second.ok()) return second.failure();
  const auto differs = std::mismatch(on_disk, on_disk + size, in_memory).first;
  return static_cast<uint64_t>(differs - on_disk);
}

// Looks at the chunks of a window in which something is cached.
Result<std::optional<uint64_t>> FindInWindow(const Sides& sides, uint64_t start, uint64_t length) {
  for (uint64_t offset = start; offset < start + length; offset += kChunk) {
    const uint64_t size = std::min(kChunk, start + length - offset);
    auto cached = IsCached(sides.cached, offset, size);
    if (!cached.ok()) return cached.failure();
    if (!cached.value()) continue;
    auto same = CountSame(sides, offset, size);
    if (!same.ok()) return same.failure();
    if (same.value() < size) return std::optional<uint64_t>(offset + same.value());
  }
  return std::optional<uint64_t>();
}

// The first page of a window that is in memory.
Result<std::optional<uint64_t>> FindCachedPage(int fd, uint64_t start, uint64_t length) {
  // A chunk at a time, and of the first that has something, a page at a time.
  for (uint64_t step = kChunk, offset = start; offset < start + length;) {
    auto cached = IsCached(fd, offset, std::min(step, start + length - offset));
    if (!cached.ok()) return cached.failure();
    if (!cached.value()) {
      offset += step;
    } else if (step == kDirectAlignment) {
      return std::optional<uint64_t>(offset);
    } else {
      step = kDirectAlignment;
    }
  }
  return std::optional<uint64_t>();
}

// The next byte that has a block on the disk, at the start of a page; `end` where there is none:
// what has no block cannot be older than it, and a sparse file may be of any size.
uint64_t SkipHole(int fd, uint64_t offset, uint64_t end) {
  if (offset >= end) return end;
  Entering("lseek");
  const off_t data = lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0) return errno == ENXIO ? end : offset;
  return static_cast<uint64_t>(data) / kDirectAlignment * kDirectAlignment;
}

// Drops the cache, and has a function search each window in which something stays until it finds
// something.
template <typename Search>
Result<std::optional<uint64_t>> FindInCache(int fd, Search search) {
  auto dropped = DropCache(fd);
  if (!dropped.ok()) return dropped.failure();
  struct stat stat;
  if (fstat(fd, &stat) < 0) return LastFailure("fstat");
  const auto end = static_cast<uint64_t>(stat.st_size);
  for (uint64_t offset = SkipHole(fd, 0, end); offset < end;
       offset = SkipHole(fd, offset + kWindow, end)) {
    const uint64_t length = std::min(kWindow, end - offset);
    auto cached = IsCached(fd, offset, length);
    if (!cached.ok()) return cached.failure();
    if (!cached.value()) continue;
    auto found = search(offset, length);
    if (!found.ok() || found.value()) return found;
  }
  return std::optional<uint64_t>();
}

// process_madvise(2) for one range: it handles no more than 2 GiB less a page in a call
// (MAX_RW_COUNT), and returns how much it did.
Result<Nothing> PageOutRange(int process, iovec range) {
  while (range.iov_len > 0) {
    const long done = syscall(SYS_process_madvise, process, &range, 1, MADV_PAGEOUT, 0);
    if (done < 0) return LastFailure("process_madvise");
    if (done == 0) break;
    range.iov_base = static_cast<std::byte*>(range.iov_base) + done;
    range.iov_len -= static_cast<size_t>(done);
  }
  return Nothing{};
}

}  // namespace

Result<std::optional<uint64_t>> FindCachedByte(int fd) {
  return FindInCache(
      fd, [fd](uint64_t offset, uint64_t length) { return FindCachedPage(fd, offset, length); });
}

Result<std::optional<uint64_t>> FindStaleByte(int fd) {
  std::optional<Sides> sides;
  return FindInCache(fd, [&](uint64_t offset, uint64_t length) -> Result<std::optional<uint64_t>> {
    if (!sides) {
      auto opened = OpenSides(fd);
      if (!opened.ok()) return opened.failure();
      sides.emplace(std::move(opened.value()));
    }
    return FindInWindow(*sides, offset, length);
  });
}

Result<Nothing> PageOut(pid_t pid, std::span<const double> ranges) {
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!process.valid()) return LastFailure("pidfd_open");
  Result<Nothing> outcome = Nothing{};
  for (; ranges.size() >= kMemoryColumns; ranges = ranges.subspan(kMemoryColumns)) {
    const iovec range{reinterpret_cast<void*>(static_cast<uintptr_t>(ranges[0])),
                      static_cast<size_t>(ranges[1])};
    auto done = PageOutRange(process.get(), range);
    if (!done.ok()) outcome = done.failure();
  }
  return outcome;
}

}  // namespace dmloop
