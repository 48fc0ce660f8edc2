#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "file_facts.h"
#include "result.h"

namespace dmloop {

// A file that the filesystem itself reads and writes, by its inode: no process has it open, and
// neither a lease nor a flag prevents that.
struct FilesystemFile {
  std::string role;
  uint64_t inode;
};

// Those of the filesystem of an open file, as far as this process may ask. `kernel_name` is that of
// the filesystem's device. A file may be listed twice.
Result<std::vector<FilesystemFile>> FilesystemFiles(int fd, const FileFacts& facts,
                                                    const std::string& kernel_name);

}  // namespace dmloop
