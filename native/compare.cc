#include "compare.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <memory>

#include "files.h"
#include "packed_rows.h"
#include "unique_fd.h"

namespace dmloop {

namespace {

constexpr uint64_t kChunk = 1 << 20;
// Direct I/O wants memory aligned to the logical block size, which is at most a page.
constexpr size_t kAlignment = 4096;

using Buffer = std::unique_ptr<std::byte, FreeDeleter>;

Buffer NewBuffer() {
  Buffer buffer(static_cast<std::byte*>(std::aligned_alloc(kAlignment, kChunk)));
  if (!buffer) std::terminate();
  return buffer;
}

Result<Nothing> ReadFully(int fd, std::byte* into, uint64_t length, uint64_t offset) {
  while (length > 0) {
    const ssize_t count = pread(fd, into, length, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return LastFailure("pread");
    if (count == 0) return Failure{EIO, "pread"};
    into += count;
    length -= static_cast<uint64_t>(count);
    offset += static_cast<uint64_t>(count);
  }
  return Nothing{};
}

Result<UniqueFd> OpenAgain(int file) {
  auto direct = Reopen(file, O_RDONLY | O_DIRECT);
  if (direct.ok() || direct.failure().error != EINVAL) return direct;
  // The filesystem has no direct I/O for it: it is read as it is, less its cached pages.
  auto dropped = DropCache(file);
  if (!dropped.ok()) return dropped.failure();
  return Reopen(file, O_RDONLY);
}

// How often a difference is looked at before it counts: the device may be written to meanwhile.
constexpr int kLooks = 3;

struct Sides {
  int device;
  const std::string& path;
  int file;
  Buffer ours = NewBuffer();
  Buffer theirs = NewBuffer();
};

// How many bytes from the start of a chunk are the same; `size` when all are.
Result<uint64_t> Compare(const Sides& sides, uint64_t on_device, uint64_t in_file, uint64_t size) {
  uint64_t same = 0;
  for (int look = 0; look < kLooks && same < size; look++) {
    // The device first: to read it directly has the kernel write out what it has cached of it,
    // which the file shows only then.
    auto first = ReadFully(sides.device, sides.ours.get(), size, on_device);
    if (!first.ok()) return Failure{first.failure().error, first.failure().syscall, sides.path};
    auto second = ReadFully(sides.file, sides.theirs.get(), size, in_file);
    if (!second.ok()) return second.failure();
    const std::byte* const ours = sides.ours.get();
    const auto differs = std::mismatch(ours, ours + size, sides.theirs.get()).first;
    same = static_cast<uint64_t>(differs - ours);
  }
  return same;
}

}  // namespace

Result<std::optional<uint64_t>> FindDifference(int device, const std::string& path, int file,
                                               std::span<const double> runs) {
  auto direct = OpenAgain(file);
  if (!direct.ok()) return direct.failure();
  const Sides sides{device, path, direct.value().get()};
  for (; runs.size() >= kRunColumns; runs = runs.subspan(kRunColumns)) {
    const auto on_device = static_cast<uint64_t>(runs[0]);
    const auto in_file = static_cast<uint64_t>(runs[1]);
    const auto length = static_cast<uint64_t>(runs[2]);
    for (uint64_t done = 0; done < length;) {
      const uint64_t size = std::min(kChunk, length - done);
      auto same = Compare(sides, on_device + done, in_file + done, size);
      if (!same.ok()) return same.failure();
      if (same.value() < size) return std::optional<uint64_t>(in_file + done + same.value());
      done += size;
    }
  }
  return std::optional<uint64_t>();
}

}  // namespace dmloop
