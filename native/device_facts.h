#pragma once

#include <optional>
#include <string>
#include <vector>

#include "result.h"

// Block devices as sysfs describes them.
namespace dmloop {

struct DeviceFacts {
  // "major:minor".
  std::string number;
  // Nothing where sysfs has no such device.
  std::optional<std::string> kernel_name;
  // Each of a kind of device: device-mapper, md, loop.
  std::optional<std::string> mapper_name;
  std::optional<std::string> md_level;
  std::optional<std::string> backing_file;
  // The numbers of the devices that it is made of.
  std::vector<std::string> underlying;
};

// The kernel's name of a device, whose directory in /sys/dev/block is given.
std::optional<std::string> KernelName(const std::string& folder);

// A device, given as "major:minor", and all that it is made of, level by level and each once.
Result<std::vector<DeviceFacts>> ReadDevices(const std::string& device);

}  // namespace dmloop
