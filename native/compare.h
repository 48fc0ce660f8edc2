#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "result.h"

namespace dmloop {

// Doubles that a packed run takes: offset on the device, offset in the file, length; in bytes.
inline constexpr size_t kRunColumns = 3;

// Compares runs of bytes of a device, opened with O_DIRECT, and an open file, past every cache. The
// first byte of the file that differs, or nothing when all are the same. Offsets and lengths are
// whole logical blocks. EIO when one of the two ends before. `path` is the device's, for its
// failures.
Result<std::optional<uint64_t>> FindDifference(int device, const std::string& path, int file,
                                               std::span<const double> runs);

}  // namespace dmloop
