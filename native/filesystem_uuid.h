#pragma once

#include <optional>
#include <string>

namespace dmloop {

// The UUID of the filesystem of an open file or directory, as hexadecimal digits; nothing where it
// has none, or where the kernel does not tell (ext4 does since Linux 6.0, others since 6.9; xfs
// always).
std::optional<std::string> UuidOf(int fd);

}  // namespace dmloop
