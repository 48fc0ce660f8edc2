#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "result.h"

// A socket in the file system: /run/udev/control tells whether udevd is running.
namespace dmloop {

struct LocalSocket {
  // The owner of its file.
  uid_t uid;
  // Whether a process has it bound. The socket's file remains when the process is killed.
  bool bound;
};

// Nothing where there is no socket. The process that has it bound does not notice.
Result<std::optional<LocalSocket>> ProbeSocket(const std::string& path);

}  // namespace dmloop
