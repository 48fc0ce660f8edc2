#pragma once

#include <string>

#include "result.h"
#include "unique_fd.h"

// The file in /run that is locked while a process maps or unmaps a file, and that contains the
// record of its mapping.
namespace dmloop {

struct LockedRecord {
  UniqueFd fd;
  std::string text;
};

// Opens a record, creates it if necessary, and locks it without waiting (flock(2)). EAGAIN when
// another open file description has it.
Result<LockedRecord> LockRecord(const std::string& path);
// Replaces its text. At every moment its first line is complete, either the old or the new one.
Result<Nothing> WriteRecord(int fd, const std::string& text);
// Releases the lock, and removes the record if it is empty.
Result<Nothing> ReleaseRecord(UniqueFd file, const std::string& path);

}  // namespace dmloop
