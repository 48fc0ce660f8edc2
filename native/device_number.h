#pragma once

#include <cstdint>

namespace dmloop {

// The number of a device, or what stands in its place for a filesystem that has none.
struct DeviceNumber {
  uint32_t major = 0;
  uint32_t minor = 0;

  bool operator==(const DeviceNumber&) const = default;
};

}  // namespace dmloop
