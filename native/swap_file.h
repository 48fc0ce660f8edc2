#pragma once

#include <optional>
#include <string>

#include "result.h"

// A file that is in use as swap space: the kernel then keeps everybody from writing it, from
// giving it other blocks and from moving these, whatever the header says of its length (S_SWAPFILE,
// linux/fs.h). The header here describes two pages, behind it in the same head of the file; lib has
// them filled, so that the kernel has no room for anybody's memory there. Of one page alone,
// scan_swap_map_slots (mm/swapfile.c) before Linux 6.12 finds none on a disk that does not rotate.
namespace dmloop {

// Writes a header for any page size that Linux has, with a new UUID, to the start of a file: 64 KiB
// of it, and 128 KiB more are the pages'. The file may be open for direct I/O.
Result<Nothing> WriteSwapHeader(int fd);
// The UUID of such a header, in hexadecimal digits; nothing where there is another one or none.
// It leaves nothing in the page cache.
Result<std::optional<std::string>> ReadSwapHeader(int fd);

// swapon(2), with the highest priority; swapoff(2), which opens the file for writing, too.
Result<Nothing> SwapOn(int fd);
Result<Nothing> SwapOff(int fd);

// Has the kernel write two pages of System V shared memory to swap. They keep their places there
// until RemoveSwappedPages, without a process. Whether they are out of memory.
Result<bool> SwapOutPages(const std::string& name);
// Removing pages that are not there, or are somebody else's, is no failure.
Result<Nothing> RemoveSwappedPages(const std::string& name);

}  // namespace dmloop
