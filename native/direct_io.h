#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "packed_rows.h"
#include "result.h"

namespace dmloop {

// Direct I/O requires positions, lengths and memory aligned to the logical block size, which is at
// most a page. f2fs silently reads what is not aligned to its own blocks from the page cache.
inline constexpr size_t kDirectAlignment = 4096;

using DirectBuffer = std::unique_ptr<std::byte, FreeDeleter>;

DirectBuffer NewDirectBuffer(size_t size);

// Reads as much of a file as requested, into a buffer that may be larger: a direct read of the end
// of a file asks for its whole last block. EIO when the file ends before.
Result<Nothing> ReadAtLeast(int fd, std::span<std::byte> into, uint64_t wanted, uint64_t offset);

}  // namespace dmloop
