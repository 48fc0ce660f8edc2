#pragma once

#include <string>

#include "result.h"

// What ext4's journal may still write to blocks of a file's data.
namespace dmloop {

// Whether the ext4 on a device can have data in its inodes (the feature inline_data).
Result<bool> HasInlineData(const std::string& device);

// Has everything in the journal of a file's filesystem written to its place on the disk.
Result<Nothing> FlushJournal(int fd);

}  // namespace dmloop
