#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "result.h"
#include "unique_fd.h"

// Small files read whole: those of sysfs and procfs, and our records.
namespace dmloop {

// All that an open file has from where it stands.
Result<std::string> ReadAll(const UniqueFd& file);
// A file's text; nothing when there is no such file.
Result<std::optional<std::string>> ReadText(const std::string& path);
// The text of the first of some files that there is.
Result<std::optional<std::string>> ReadFirst(const std::vector<std::string>& paths);
// What is in a folder; nothing when it cannot be read.
std::vector<std::string> NamesIn(const std::string& path);
// The files of a folder whose names end so, with their texts; none when there is no folder. One
// that goes meanwhile is not in it.
using Folder = std::vector<std::pair<std::string, std::string>>;
Result<Folder> ReadFolder(const std::string& path, const std::string& suffix);

}  // namespace dmloop
