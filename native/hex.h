#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace dmloop {

// Appends the two hexadecimal digits of a byte.
inline void AppendHex(std::string& text, unsigned byte) {
  constexpr const char* kDigits = "0123456789abcdef";
  text += kDigits[byte >> 4];
  text += kDigits[byte & 0xf];
}

inline std::string HexOf(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) AppendHex(text, std::to_integer<unsigned>(byte));
  return text;
}

}  // namespace dmloop
