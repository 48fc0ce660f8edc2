#pragma once

#include <cstdint>
#include <optional>

#include "result.h"

namespace dmloop {

// Compares `length` bytes of two open files from an offset in each: the first byte, counted from
// the start of the comparison, that differs; nothing when all are the same. Opened with O_DIRECT,
// offsets and length must be whole logical blocks. EIO when a file ends before.
Result<std::optional<uint64_t>> FindDifference(int left, uint64_t left_offset, int right,
                                               uint64_t right_offset, uint64_t length);

}  // namespace dmloop
