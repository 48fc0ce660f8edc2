#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "file_facts.h"
#include "result.h"

namespace dmloop {

// A file that the kernel reads and writes on its filesystem's behalf, by its inode: nobody has it
// open, and no lease or flag keeps the kernel from it.
struct FilesystemFile {
  std::string role;
  uint64_t inode;
};

// Those of the filesystem that an open file lies on, as far as this process may ask; `kernel_name`
// is that of the filesystem's device. One that is told of twice stands here twice.
Result<std::vector<FilesystemFile>> FilesystemFiles(int fd, const FileFacts& facts,
                                                    const std::string& kernel_name);

}  // namespace dmloop
