#pragma once

#include <string>

namespace dmloop {

// Appends the two hexadecimal digits of a byte.
inline void AppendHex(std::string& text, unsigned byte) {
  constexpr const char* kDigits = "0123456789abcdef";
  text += kDigits[byte >> 4];
  text += kDigits[byte & 0xf];
}

}  // namespace dmloop
