#pragma once

#include <string>

#include "result.h"
#include "unique_fd.h"

// The file in /run that is locked while a process maps or unmaps a file, and that holds the record
// of its mapping.
namespace dmloop {

struct LockedRecord {
  UniqueFd fd;
  std::string text;
};

// Opens a record, makes it if need be, and locks it without waiting (flock(2)). EAGAIN when another
// open file description has it.
Result<LockedRecord> LockRecord(const std::string& path);
// Replaces what it says. At every moment its first line is whole, the old one or the new one.
Result<Nothing> WriteRecord(int fd, const std::string& text);
// Lets the lock go, and removes the record if it says nothing.
Result<Nothing> ReleaseRecord(UniqueFd file, const std::string& path);

}  // namespace dmloop
