#include "compare.h"

#include <fcntl.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "direct_io.h"
#include "files.h"

namespace dmloop {

namespace {

constexpr uint64_t kChunk = 1 << 20;

// Without direct I/O a file is read through the page cache, which is dropped before.
Result<UniqueFd> OpenCached(int file) {
  auto dropped = DropCache(file);
  if (!dropped.ok()) return dropped.failure();
  return Reopen(file, O_RDONLY);
}

Result<UniqueFd> OpenDirect(int file) {
  auto direct = Reopen(file, O_RDONLY | O_DIRECT);
  if (direct.ok() || direct.failure().error != EINVAL) return direct;
  return OpenCached(file);
}

// How often a difference is read again before it counts: the device may be written to meanwhile.
constexpr int kAttempts = 3;

struct Sides {
  int device;
  const std::string& path;
  int file;
  // Past the page cache, where that is possible.
  UniqueFd reader;
  DirectBuffer device_bytes = NewDirectBuffer(kChunk);
  DirectBuffer file_bytes = NewDirectBuffer(kChunk);
};

Result<Nothing> ReadFile(Sides& sides, uint64_t length, uint64_t offset) {
  const std::span<std::byte> into(sides.file_bytes.get(), length);
  auto read = ReadAtLeast(sides.reader.get(), into, length, offset);
  if (read.ok() || read.failure().error != EINVAL) return read;
  // A loop device may have smaller blocks than direct I/O on the disk of its file allows.
  auto cached = OpenCached(sides.file);
  if (!cached.ok()) return cached.failure();
  sides.reader = std::move(cached.value());
  return ReadAtLeast(sides.reader.get(), into, length, offset);
}

// How many bytes from the start of a chunk are the same; `size` when all are.
Result<uint64_t> Compare(Sides& sides, uint64_t on_device, uint64_t in_file, uint64_t size) {
  uint64_t same = 0;
  for (int attempt = 0; attempt < kAttempts && same < size; attempt++) {
    // The device first: a direct read makes the kernel write back the device's cached pages, and
    // only then does the file have them.
    auto first = ReadAtLeast(sides.device, {sides.device_bytes.get(), size}, size, on_device);
    if (!first.ok()) return Failure{first.failure().error, first.failure().syscall, sides.path};
    auto second = ReadFile(sides, size, in_file);
    if (!second.ok()) return second.failure();
    const std::byte* const device_bytes = sides.device_bytes.get();
    const auto differs =
        std::mismatch(device_bytes, device_bytes + size, sides.file_bytes.get()).first;
    same = static_cast<uint64_t>(differs - device_bytes);
  }
  return same;
}

}  // namespace

Result<std::optional<uint64_t>> FindDifference(int device, const std::string& path, int file,
                                               std::span<const double> runs) {
  auto opened = OpenDirect(file);
  if (!opened.ok()) return opened.failure();
  Sides sides{device, path, file, std::move(opened.value())};
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
