#include "places.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "btrfs.h"
#include "files.h"
#include "mounts.h"
#include "progress.h"
#include "small_files.h"
#include "statx.h"

namespace dmloop {

namespace {

// Whether the filesystem of an O_PATH descriptor has no handles, which the kernel says without
// asking a server: 9p is one, and ignores AT_STATX_DONT_SYNC (v9fs_vfs_getattr_dotl,
// fs/9p/vfs_inode.c). NFS and FUSE have some, and do not.
bool HasNoHandles(int fd) {
  struct file_handle handle = {};
  int mount = 0;
  Entering("name_to_handle_at");
  return name_to_handle_at(fd, "", &handle, &mount, AT_EMPTY_PATH) < 0 && errno == EOPNOTSUPP;
}

// The number that statx(2) has is not that of the device on btrfs, which only says more of a file
// that is open. Any other such filesystem may have a server that is gone, so it is not opened.
std::vector<DeviceNumber> DevicesOf(int fd, DeviceNumber number) {
  if (number.major != 0) return {number};
  if (MountOf(fd).value_or(Mount()).filesystem != "btrfs") return {};
  auto opened = Reopen(fd, O_RDONLY);
  if (!opened.ok()) return {};
  std::vector<DeviceNumber> numbers;
  for (const BtrfsDevice& device : BtrfsDevices(opened.value().get())) {
    numbers.push_back(device.number);
  }
  return numbers;
}

// A place, found, and the devices of its filesystem: one device, or on btrfs several.
struct Place {
  UniqueFd fd;
  std::vector<DeviceNumber> devices;
};

Result<Place> Find(const std::string& place) {
  Entering("open");
  UniqueFd found(open(place.c_str(), O_PATH | O_CLOEXEC));
  if (!found.valid()) return LastFailure("open", place);
  if (HasNoHandles(found.get())) return Failure{EXDEV, "open", place};
  Entering("statx");
  struct statx stat;
  constexpr int kFlags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
  if (statx(found.get(), "", kFlags, STATX_TYPE, &stat) < 0) return LastFailure("statx", place);
  // To open a device or a pipe can do something.
  const bool opens = S_ISDIR(stat.stx_mode) || S_ISREG(stat.stx_mode);
  if (!opens) return Failure{EXDEV, "open", place};
  auto devices = DevicesOf(found.get(), {stat.stx_dev_major, stat.stx_dev_minor});
  return Place{std::move(found), std::move(devices)};
}

}  // namespace

Result<UniqueFd> FindPlace(const std::string& place, DeviceNumber device) {
  auto found = Find(place);
  if (!found.ok()) return found.failure();
  const auto& devices = found.value().devices;
  if (std::find(devices.begin(), devices.end(), device) == devices.end()) {
    return Failure{EXDEV, "open", place};
  }
  return std::move(found.value().fd);
}

Result<UniqueFd> OpenPlace(const std::string& place, DeviceNumber device) {
  auto found = FindPlace(place, device);
  if (!found.ok()) return found.failure();
  return Reopen(found.value().get(), O_RDONLY);
}

std::optional<DeviceNumber> DeviceAt(const std::string& place) {
  auto found = Find(place);
  if (!found.ok() || found.value().devices.empty()) return std::nullopt;
  return found.value().devices.front();
}

std::vector<std::string> OpenPlaces(DeviceNumber device) {
  std::vector<std::string> places;
  const auto add = [&](std::string place) {
    if (FindPlace(place, device).ok()) places.push_back(std::move(place));
  };
  for (const std::string& process : Processes()) {
    add(process + "/root");
    add(process + "/cwd");
    for (const std::string& name : NamesIn(process + "/fd")) add(process + "/fd/" + name);
  }
  return places;
}

}  // namespace dmloop
