#include "compare.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <memory>

#include "packed_rows.h"

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

Result<Nothing> ReadAll(int fd, std::byte* into, uint64_t length, uint64_t offset) {
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

}  // namespace

Result<std::optional<uint64_t>> FindDifference(int left, uint64_t left_offset, int right,
                                               uint64_t right_offset, uint64_t length) {
  const Buffer a = NewBuffer();
  const Buffer b = NewBuffer();
  for (uint64_t done = 0; done < length;) {
    const uint64_t size = std::min(kChunk, length - done);
    auto first = ReadAll(left, a.get(), size, left_offset + done);
    if (!first.ok()) return first.failure();
    auto second = ReadAll(right, b.get(), size, right_offset + done);
    if (!second.ok()) return second.failure();
    const auto differs = std::mismatch(a.get(), a.get() + size, b.get()).first;
    if (differs != a.get() + size) {
      return std::optional<uint64_t>(done + static_cast<uint64_t>(differs - a.get()));
    }
    done += size;
  }
  return std::optional<uint64_t>();
}

}  // namespace dmloop
