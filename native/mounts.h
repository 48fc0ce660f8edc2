#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "device_number.h"

namespace dmloop {

// A mount (proc_pid_mountinfo(5)).
struct Mount {
  // Of the filesystem: see FileFacts::filesystem.
  DeviceNumber number;
  // As /proc/filesystems has it.
  std::string filesystem;
  // A path to it for this process. Another mount may cover it.
  std::string place;
  bool read_only = false;
  // See mount_setattr(2).
  bool idmapped = false;
  // The filesystem as a whole: through no mount can it be written to.
  bool filesystem_read_only = false;
};

// Those of this process's namespace with a filesystem that has blocks, those that can be written
// through first.
std::vector<Mount> OwnMounts();
// Those of every other mount namespace that has a process which /proc shows, by way of its root.
std::vector<Mount> ForeignMounts();
// The mount that an open file was opened through; O_PATH suffices. Its place is that of another
// namespace, where this process does not see it itself. Nothing where no process that /proc shows
// has it in its mountinfo, as after umount2(2) with MNT_DETACH. It may be known already what this
// process's mountinfo says.
std::optional<Mount> MountOf(int fd);
std::optional<Mount> MountOf(int fd, std::string_view own_mountinfo);
// The folder of each process in /proc.
std::vector<std::string> Processes();

}  // namespace dmloop
