#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace dmloop {

// The number of a device, or what stands in its place for a filesystem that has none.
struct DeviceNumber {
  uint32_t major = 0;
  uint32_t minor = 0;

  bool operator==(const DeviceNumber&) const = default;
};

// As the kernel writes it: "254:3".
inline std::string TextOf(DeviceNumber number) {
  return std::to_string(number.major) + ":" + std::to_string(number.minor);
}

inline std::optional<DeviceNumber> ParseDeviceNumber(std::string_view text) {
  DeviceNumber number;
  const char* const end = text.data() + text.size();
  const auto major = std::from_chars(text.data(), end, number.major);
  if (major.ec != std::errc{} || major.ptr == end || *major.ptr != ':') return std::nullopt;
  const auto minor = std::from_chars(major.ptr + 1, end, number.minor);
  return minor.ec == std::errc{} && minor.ptr == end ? std::optional(number) : std::nullopt;
}

}  // namespace dmloop
