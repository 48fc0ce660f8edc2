#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "result.h"

namespace dmloop {

// Doubles that a packed run takes: offset on the device, offset in the file, length; in bytes.
inline constexpr size_t kRunColumns = 3;

// Compares runs of bytes of a device and an open file, past every cache. The first byte of the file
// that differs, or nothing when all are the same. Offsets and lengths are whole logical blocks. EIO
// when one of the two ends before.
Result<std::optional<uint64_t>> FindDifference(const std::string& device, int file,
                                               std::span<const double> runs);

}  // namespace dmloop
