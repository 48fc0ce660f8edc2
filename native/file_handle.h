#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "result.h"
#include "unique_fd.h"

// What a filesystem knows a file by, whatever it is called and wherever it is mounted:
// name_to_handle_at(2) and open_by_handle_at(2).
namespace dmloop {

// A handle as text: two hexadecimal digits for its type, then two for each of its bytes. Nothing
// where the filesystem has no handles (EOPNOTSUPP), or longer ones than a local filesystem has.
Result<std::optional<std::string>> GetHandle(int fd);

// Opens a directory or regular file for reading, on the filesystem that has this device: EXDEV
// where the path leads to another filesystem by now, or to anything else.
Result<UniqueFd> OpenPlace(const std::string& place, uint32_t major, uint32_t minor);

// Opens a regular file for reading by its handle; `place` as for OpenPlace. ESTALE when the
// filesystem has no such file. Needs CAP_DAC_READ_SEARCH.
Result<UniqueFd> OpenHandle(const std::string& place, uint32_t major, uint32_t minor,
                            const std::string& handle);

}  // namespace dmloop
