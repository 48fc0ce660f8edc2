#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "result.h"

// A socket in the file system: /run/udev/control tells whether udevd is there.
namespace dmloop {

struct LocalSocket {
  // The owner of its file.
  uid_t uid;
  // Whether a process has the socket. Its file outlives a killed one.
  bool bound;
};

// Nothing where there is no socket. Who has the socket does not notice.
Result<std::optional<LocalSocket>> ProbeSocket(const std::string& path);

}  // namespace dmloop
