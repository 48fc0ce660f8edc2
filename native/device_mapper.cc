#include "device_mapper.h"

#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstring>

#include "dm_ioctl.h"
#include "dm_table.h"

namespace dmloop::dm {

namespace {

// An ioctl that takes no payload and answers with the device's status.
Result<Device> Simple(unsigned long command, const char* name, const Target& target, uint32_t flags,
                      uint32_t cookie = 0) {
  Request request;
  if (auto failure = request.Address(target)) return *failure;
  request.header().flags = flags;
  request.header().event_nr = cookie;
  if (auto failure = Send(command, name, request)) return *failure;
  return DeviceOf(request.header());
}

}  // namespace

Result<Version> GetVersion() {
  Request request;
  if (auto failure = Send(DM_VERSION, "DM_VERSION", request)) return *failure;
  const auto& version = request.header().version;
  return Version{version[0], version[1], version[2]};
}

Result<Device> Create(const std::string& name, const std::string& uuid) {
  return Simple(DM_DEV_CREATE, "DM_DEV_CREATE", {name, uuid, 0}, 0);
}

Result<Device> LoadTable(const Target& target, std::span<const double> segments,
                         const std::vector<std::string>& devices, bool read_only) {
  Request request(TableSize(segments, devices));
  if (auto failure = request.Address(target)) return *failure;
  request.header().flags = read_only ? DM_READONLY_FLAG : 0;
  request.header().target_count = WriteTable(segments, devices, request.payload());
  if (auto failure = Send(DM_TABLE_LOAD, "DM_TABLE_LOAD", request)) return *failure;
  return DeviceOf(request.header());
}

Result<Device> Resume(const Target& target, uint32_t cookie) {
  return Simple(DM_DEV_SUSPEND, "DM_DEV_RESUME", target, 0, cookie);
}

Result<Device> Suspend(const Target& target) {
  return Simple(DM_DEV_SUSPEND, "DM_DEV_SUSPEND", target, DM_SUSPEND_FLAG);
}

Result<Device> Clear(const Target& target) {
  return Simple(DM_TABLE_CLEAR, "DM_TABLE_CLEAR", target, 0);
}

Result<Device> Status(const Target& target) {
  return Simple(DM_DEV_STATUS, "DM_DEV_STATUS", target, 0);
}

Result<Device> Remove(const Target& target, bool deferred, uint32_t cookie) {
  return Simple(DM_DEV_REMOVE, "DM_DEV_REMOVE", target, deferred ? DM_DEFERRED_REMOVE : 0, cookie);
}

Result<Table> GetTable(const Target& target, bool inactive) {
  uint32_t flags = DM_STATUS_TABLE_FLAG | DM_NOFLUSH_FLAG;
  if (inactive) flags |= DM_QUERY_INACTIVE_TABLE_FLAG;
  // The kernel formats a table from the start for every buffer that is too small: a large one is
  // asked for with room for its count of segments. 80 bytes hold a record of nearly any linear one.
  constexpr size_t kRecord = 80;
  auto status = Simple(DM_DEV_STATUS, "DM_DEV_STATUS", target, flags);
  if (!status.ok()) return status.failure();
  const size_t room = std::max(kFirstTry, status.value().target_count * kRecord);
  auto answer = SendGrowing(DM_TABLE_STATUS, "DM_TABLE_STATUS", target, flags, room);
  if (!answer.ok()) return answer.failure();
  Request& request = answer.value();
  auto table = ReadTable(request.answer(), request.header().target_count);
  if (table.ok()) table.value().device = DeviceOf(request.header());
  return table;
}

Result<std::vector<std::string>> Dependencies(const Target& target) {
  auto answer = SendGrowing(DM_TABLE_DEPS, "DM_TABLE_DEPS", target, 0);
  if (!answer.ok()) return answer.failure();
  const auto bytes = answer.value().answer();
  if (bytes.size() < sizeof(struct dm_target_deps)) return std::vector<std::string>{};
  struct dm_target_deps deps;
  std::memcpy(&deps, bytes.data(), sizeof deps);
  const size_t room = (bytes.size() - sizeof deps) / sizeof(uint64_t);
  std::vector<std::string> devices;
  for (size_t i = 0; i < deps.count && i < room; i++) {
    uint64_t device;
    std::memcpy(&device, bytes.data() + sizeof deps + i * sizeof device, sizeof device);
    devices.push_back(std::to_string(major(device)) + ":" + std::to_string(minor(device)));
  }
  return devices;
}

Result<std::vector<Device>> List() {
  auto answer = SendGrowing(DM_LIST_DEVICES, "DM_LIST_DEVICES", {}, 0);
  if (!answer.ok()) return answer.failure();
  std::vector<Device> devices;
  auto bytes = answer.value().answer();
  // An entry is a dm_name_list whose name runs to a NUL; `next` is the way to the following one.
  while (bytes.size() > sizeof(struct dm_name_list)) {
    struct dm_name_list entry;
    std::memcpy(&entry, bytes.data(), sizeof entry);
    if (entry.dev == 0) break;
    // Old kernels list no UUIDs, so each device is asked for its own. One that has gone meanwhile
    // is not in the list any more.
    auto status = Status({{}, {}, entry.dev});
    if (status.ok()) {
      devices.push_back(std::move(status.value()));
    } else if (status.failure().error != ENXIO) {
      return status.failure();
    }
    if (entry.next == 0 || entry.next > bytes.size()) break;
    bytes = bytes.subspan(entry.next);
  }
  return devices;
}

}  // namespace dmloop::dm
