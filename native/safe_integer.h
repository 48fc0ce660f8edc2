#pragma once

#include <cstdint>

namespace dmloop {

// The largest whole number that a JavaScript number holds exactly, as do all below it.
inline constexpr uint64_t kMaxSafeInteger = (uint64_t{1} << 53) - 1;

}  // namespace dmloop
