#pragma once

#include <optional>
#include <string>
#include <vector>

#include "device_number.h"
#include "result.h"
#include "unique_fd.h"

// Directories and files that lead to a filesystem, which is known by its device: see
// FileFacts::device.
namespace dmloop {

// Finds a directory or a regular file on the filesystem of a device (O_PATH: it is not opened).
// EXDEV for anything else; the server of a network filesystem is not asked.
Result<UniqueFd> FindPlace(const std::string& place, DeviceNumber device);
// The same, opened for reading: EAGAIN while a process has a write lease on it.
Result<UniqueFd> OpenPlace(const std::string& place, DeviceNumber device);
// The device of the filesystem that a directory or a regular file is on, the first where there are
// several. Nothing for anything else.
std::optional<DeviceNumber> DeviceAt(const std::string& place);
// Files and directories of one filesystem that processes have open, or have as root or working
// directory: all that leads to a filesystem whose last mount was detached (umount2(2), MNT_DETACH).
std::vector<std::string> OpenPlaces(DeviceNumber device);

}  // namespace dmloop
