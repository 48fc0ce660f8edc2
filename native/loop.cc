#include "loop.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "files.h"
#include "progress.h"
#include "small_files.h"
#include "unique_fd.h"

namespace dmloop::loop {

namespace {

Result<struct loop_info64> GetInfo(const UniqueFd& device) {
  struct loop_info64 info = {};
  Entering("LOOP_GET_STATUS64");
  if (ioctl(device.get(), LOOP_GET_STATUS64, &info) < 0) return LastFailure("LOOP_GET_STATUS64");
  return info;
}

std::string NameOf(const struct loop_info64& info) {
  const auto* name = reinterpret_cast<const char*>(info.lo_file_name);
  return std::string(name, strnlen(name, LO_NAME_SIZE));
}

Result<struct loop_info64> GetInfoOf(const UniqueFd& device, const std::string& name) {
  auto info = GetInfo(device);
  if (info.ok() && NameOf(info.value()) != name) return Failure{ENXIO, "LOOP_GET_STATUS64"};
  return info;
}

Result<Nothing> SetInfo(const UniqueFd& device, const struct loop_info64& info) {
  Entering("LOOP_SET_STATUS64");
  if (ioctl(device.get(), LOOP_SET_STATUS64, &info) < 0) return LastFailure("LOOP_SET_STATUS64");
  return Nothing{};
}

}  // namespace

Result<uint32_t> GetFree() {
  auto control = Open("/dev/loop-control", O_RDWR);
  if (!control.ok()) return control.failure();
  const int number = ioctl(control.value().get(), LOOP_CTL_GET_FREE);
  if (number < 0) return LastFailure("LOOP_CTL_GET_FREE");
  return static_cast<uint32_t>(number);
}

Result<Nothing> Configure(const std::string& path, int fd, const Settings& settings) {
  auto device = Open(path, O_RDWR);
  if (!device.ok()) return device.failure();
  struct loop_config config = {};
  config.fd = static_cast<uint32_t>(fd);
  config.block_size = settings.block_size;
  config.info.lo_offset = settings.offset;
  config.info.lo_sizelimit = settings.size;
  if (settings.read_only) config.info.lo_flags |= LO_FLAGS_READ_ONLY;
  if (settings.direct_io) config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
  if (settings.partition_scan) config.info.lo_flags |= LO_FLAGS_PARTSCAN;
  const size_t length = std::min(settings.name.size(), size_t{LO_NAME_SIZE - 1});
  std::memcpy(config.info.lo_file_name, settings.name.data(), length);
  Entering("LOOP_CONFIGURE");
  if (ioctl(device.value().get(), LOOP_CONFIGURE, &config) < 0)
    return LastFailure("LOOP_CONFIGURE");
  return Nothing{};
}

Result<Status> GetStatus(uint32_t number) {
  auto device = Open("/dev/loop" + std::to_string(number), O_RDONLY);
  if (!device.ok()) return device.failure();
  struct stat node;
  if (fstat(device.value().get(), &node) < 0) return LastFailure("fstat");
  auto info = GetInfo(device.value());
  if (!info.ok()) return info.failure();
  const struct loop_info64& found = info.value();
  // The kernel's huge_encode_dev, which is glibc's dev_t as well.
  const dev_t host = found.lo_device;
  const dev_t file = found.lo_rdevice;
  return Status{number,          major(node.st_rdev), minor(node.st_rdev), major(host),
                minor(host),     found.lo_inode,      major(file),         minor(file),
                found.lo_offset, found.lo_sizelimit,  found.lo_flags,      NameOf(found)};
}

std::vector<Status> List() {
  std::vector<Status> loops;
  for (const std::string& name : NamesIn("/sys/block")) {
    uint32_t number = 0;
    const char* end = name.data() + name.size();
    if (!name.starts_with("loop")) continue;
    if (std::from_chars(name.data() + 4, end, number).ptr != end) continue;
    // A device has this directory while a file is attached to it.
    if (access(("/sys/block/" + name + "/loop").c_str(), F_OK) < 0) continue;
    auto status = GetStatus(number);
    if (status.ok()) loops.push_back(std::move(status.value()));
  }
  return loops;
}

Result<Nothing> Resize(const std::string& path, const std::string& name, uint64_t size) {
  auto device = Open(path, O_RDWR);
  if (!device.ok()) return device.failure();
  auto info = GetInfoOf(device.value(), name);
  if (!info.ok()) return info.failure();
  info.value().lo_sizelimit = size;
  return SetInfo(device.value(), info.value());
}

Result<Cleared> Clear(const std::string& path, const std::string& name, bool deferred) {
  auto device = Open(path, O_RDONLY);
  if (!device.ok()) return device.failure();
  auto info = GetInfoOf(device.value(), name);
  if (!info.ok()) return info.failure();
  auto synced = Sync(device.value().get());
  if (!synced.ok()) return synced.failure();
  Entering("LOOP_CLR_FD");
  if (ioctl(device.value().get(), LOOP_CLR_FD) < 0) return LastFailure("LOOP_CLR_FD");
  auto left = GetInfo(device.value());
  if (!left.ok()) {
    if (left.failure().error == ENXIO) return Cleared::kRemoved;
    return left.failure();
  }
  if (deferred) return Cleared::kDeferred;
  // Others have it open: the driver has set LO_FLAGS_AUTOCLEAR, and would detach it when they close
  // it.
  left.value().lo_flags &= ~static_cast<uint32_t>(LO_FLAGS_AUTOCLEAR);
  auto kept = SetInfo(device.value(), left.value());
  if (!kept.ok()) return kept.failure();
  return Cleared::kBusy;
}

}  // namespace dmloop::loop
