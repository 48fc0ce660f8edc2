#include "device_mapper.h"

#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "dm_ioctl.h"
#include "dm_table.h"

namespace dmloop::dm {

namespace {

// An ioctl that takes no payload and answers with the device's status.
Result<Device> Simple(const Control& control, unsigned long command, const char* name,
                      const Target& target, uint32_t flags, uint32_t cookie = 0) {
  Request request;
  if (auto failure = request.Address(target)) return *failure;
  request.header().flags = flags;
  request.header().event_nr = cookie;
  if (auto failure = control.Send(command, name, request)) return *failure;
  return DeviceOf(request.header());
}

template <typename Work>
Result<Device> WithControl(Work work) {
  auto control = Control::Open();
  if (!control.ok()) return control.failure();
  return work(control.value());
}

Result<Device> Simple(unsigned long command, const char* name, const Target& target, uint32_t flags,
                      uint32_t cookie = 0) {
  return WithControl([&](const Control& control) {
    return Simple(control, command, name, target, flags, cookie);
  });
}

Result<Device> Create(const Control& control, const std::string& name, const std::string& uuid) {
  return Simple(control, DM_DEV_CREATE, "DM_DEV_CREATE", {name, uuid, 0}, 0);
}

Result<Device> LoadTable(const Control& control, const Target& target,
                         const SegmentSource& segments, const std::vector<std::string>& devices,
                         bool read_only) {
  // Room that is not written to costs nothing: no page of it is ever found.
  Request request(TableRoom(segments, devices));
  request.Populate(LeastTableSize(segments));
  if (auto failure = request.Address(target)) return *failure;
  const WrittenTable written = WriteTable(segments, devices, request.payload());
  request.Shorten(written.bytes);
  request.header().flags = read_only ? DM_READONLY_FLAG : 0;
  request.header().target_count = written.targets;
  if (auto failure = control.Send(DM_TABLE_LOAD, "DM_TABLE_LOAD", request)) return *failure;
  return DeviceOf(request.header());
}

Result<Device> Resume(const Control& control, const Target& target, uint32_t cookie) {
  // Of a live device, the kernel exchanges the table between two requests. The filesystem on it
  // is not frozen for that (lock_fs in drivers/md/dm.c), which would write all of it out: each
  // block stays where it was.
  return Simple(control, DM_DEV_SUSPEND, "DM_DEV_RESUME", target, DM_SKIP_LOCKFS_FLAG, cookie);
}

// "major:minor" as the ioctls take it: the kernel's huge_encode_dev, which is glibc's dev_t as
// well.
std::optional<uint64_t> NumberOf(const std::string& device) {
  uint32_t major = 0;
  uint32_t minor = 0;
  const char* const end = device.data() + device.size();
  const auto colon = std::from_chars(device.data(), end, major);
  if (colon.ec != std::errc{} || colon.ptr == end || *colon.ptr != ':') return std::nullopt;
  const auto rest = std::from_chars(colon.ptr + 1, end, minor);
  if (rest.ec != std::errc{} || rest.ptr != end) return std::nullopt;
  return makedev(major, minor);
}

}  // namespace

Result<Version> GetVersion() {
  Request request;
  if (auto failure = Send(DM_VERSION, "DM_VERSION", request)) return *failure;
  const auto& version = request.header().version;
  return Version{version[0], version[1], version[2]};
}

Result<Device> Create(const std::string& name, const std::string& uuid) {
  return WithControl([&](const Control& control) { return Create(control, name, uuid); });
}

Result<Device> LoadTable(const Target& target, const SegmentSource& segments,
                         const std::vector<std::string>& devices, bool read_only) {
  return WithControl([&](const Control& control) {
    return LoadTable(control, target, segments, devices, read_only);
  });
}

Result<Device> Resume(const Target& target, uint32_t cookie) {
  return WithControl([&](const Control& control) { return Resume(control, target, cookie); });
}

Result<Device> Make(const std::string& name, const std::string& uuid, const SegmentSource& segments,
                    const std::vector<std::string>& devices, bool read_only, uint32_t cookie) {
  return WithControl([&](const Control& control) -> Result<Device> {
    auto created = Create(control, name, uuid);
    if (!created.ok()) return created;
    const Target target{{}, uuid, 0};
    auto made = LoadTable(control, target, segments, devices, read_only);
    if (made.ok()) made = Resume(control, target, cookie);
    if (!made.ok()) static_cast<void>(Remove(target, false, 0));
    return made;
  });
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
  // The kernel formats a table from the start for every buffer that is too small. The first answer
  // tells how many segments there are: 80 bytes hold a record of nearly any linear one.
  constexpr size_t kRecord = 80;
  auto answer =
      SendGrowing(DM_TABLE_STATUS, "DM_TABLE_STATUS", target, flags,
                  [](const struct dm_ioctl& header) { return header.target_count * kRecord; });
  if (!answer.ok()) return answer.failure();
  Request& request = answer.value();
  // A large table takes less memory as rows, which take the place of what has been read.
  auto table = ReadTable(request.answer(), request.header().target_count,
                         [&](size_t bytes) { request.Discard(bytes); });
  if (table.ok()) table.value().device = DeviceOf(request.header());
  return table;
}

Result<std::vector<Table>> GetStack(const std::string& device) {
  std::vector<Table> tables;
  std::vector<std::string> devices = {device};
  for (size_t i = 0; i < devices.size(); i++) {
    // Only a device-mapper device has this directory. The ioctl needs privileges, which planning a
    // file on a plain disk should not.
    const std::string folder = "/sys/dev/block/" + devices[i] + "/dm";
    if (access(folder.c_str(), F_OK) < 0) continue;
    const auto number = NumberOf(devices[i]);
    if (!number) return Failure{EINVAL, "GetStack", devices[i]};
    auto table = GetTable({{}, {}, *number}, false);
    if (!table.ok()) return table.failure();
    for (const std::string& below : table.value().devices) {
      if (std::find(devices.begin(), devices.end(), below) == devices.end()) {
        devices.push_back(below);
      }
    }
    tables.push_back(std::move(table.value()));
  }
  return tables;
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
    // Older kernels list no UUIDs, so each device is queried for its own. One that was removed
    // meanwhile is left out.
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
