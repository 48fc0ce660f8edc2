#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace dmloop {

// A mount of a filesystem that has a device (proc_pid_mountinfo(5)).
struct Mount {
  uint32_t major = 0;
  uint32_t minor = 0;
  // As /proc/filesystems has it.
  std::string filesystem;
  // A path to it for this process. Another mount may cover it.
  std::string place;
  bool read_only = false;
  // The filesystem as a whole: through no mount can it be written to.
  bool filesystem_read_only = false;
};

// The mounts of this process's namespace, those that can be written through first.
std::vector<Mount> OwnMounts();
// Those of every other mount namespace that has a process which /proc shows, by way of its root.
std::vector<Mount> ForeignMounts();
// Whether the mount that an open file was opened through is idmapped (mount_setattr(2)). Nothing
// where no process that /proc shows has it in its mountinfo, as after umount2(2) with MNT_DETACH.
std::optional<bool> IsIdmapped(int fd);
// Files and directories of one filesystem that processes have open, or have as root or working
// directory: all that leads to a filesystem whose last mount was detached (umount2(2), MNT_DETACH).
std::vector<std::string> OpenPlaces(uint32_t major, uint32_t minor);

}  // namespace dmloop
