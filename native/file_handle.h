#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "device_number.h"
#include "result.h"
#include "unique_fd.h"

// What a filesystem knows a file by, whatever it is called and wherever it is mounted:
// name_to_handle_at(2) and open_by_handle_at(2).
namespace dmloop {

// A handle as text: two hexadecimal digits for its type, then two for each of its bytes. Nothing
// where the filesystem has no handles (EOPNOTSUPP), or longer ones than a local filesystem has.
Result<std::optional<std::string>> GetHandle(int fd);

// Finds a file by its handle (O_PATH: it is not opened, so no lease is in the way). `place` as for
// OpenPlace, on any mount of the filesystem. ESTALE when the filesystem has no such file. Needs
// CAP_DAC_READ_SEARCH.
Result<UniqueFd> FindHandle(const std::string& place, DeviceNumber device,
                            const std::string& handle);

}  // namespace dmloop
