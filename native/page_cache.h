#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "result.h"

// The page cache of a file whose blocks were written through a device.
namespace dmloop {

// Drops the cached pages of an open file and compares those that stay with the disk: the first byte
// that differs, or nothing when all are the same. Pages that come in meanwhile were read from the
// disk as it is. EINVAL where the filesystem has no direct I/O.
Result<std::optional<uint64_t>> FindStaleByte(int fd);

// Drops the cached pages of an open file: the first byte of a page that stays, whatever is in it.
Result<std::optional<uint64_t>> FindCachedByte(int fd);

// Doubles that a packed range of a process's memory takes: its first address, and its bytes.
inline constexpr size_t kMemoryColumns = 2;

// Has the kernel reclaim the pages in ranges of a process's memory (process_madvise(2),
// MADV_PAGEOUT), which takes them out of the process's page tables. Linux leaves alone what another
// process has mapped too and what is locked; nothing that the process sees changes. The failure is
// the last one; the other ranges are tried all the same.
Result<Nothing> PageOut(pid_t pid, std::span<const double> ranges);

}  // namespace dmloop
