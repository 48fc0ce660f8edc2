#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "result.h"
#include "unique_fd.h"

// Small files, read whole: those of sysfs and procfs, and the records in /run.
namespace dmloop {

// The rest of an open file from its current position.
Result<std::string> ReadAll(const UniqueFd& file);
// A file's text; nothing when there is no such file.
Result<std::optional<std::string>> ReadText(const std::string& path);
// The text of the first of some files that exists.
Result<std::optional<std::string>> ReadFirst(const std::vector<std::string>& paths);
// The entries of a directory; empty when it cannot be read.
std::vector<std::string> NamesIn(const std::string& path);
struct FolderNames {
  std::vector<std::string> files;
  std::vector<std::string> folders;
};
// The regular files and the directories in a directory; empty where the path is not in this mount
// (the first number of a line in proc_pid_mountinfo(5)). A filesystem that is mounted over it is
// not accessed: its server may be gone.
Result<FolderNames> ListFolder(const std::string& path, uint64_t mount);
// The files of a directory whose names end with a suffix, with their texts; empty when there is no
// directory. A file that is removed meanwhile is left out.
using Folder = std::vector<std::pair<std::string, std::string>>;
Result<Folder> ReadFolder(const std::string& path, const std::string& suffix);

}  // namespace dmloop
