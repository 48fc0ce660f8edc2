#include "dm_ioctl.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "progress.h"

namespace dmloop::dm {

namespace {

constexpr const char* kControl = "/dev/" DM_DIR "/" DM_CONTROL_NODE;

// The oldest interface with everything used here: 4.27 brought DM_DEFERRED_REMOVE (kernel 3.13).
// The kernel refuses a caller that claims a newer minor than its own, so 4.0.0 is what is sent.
constexpr uint32_t kInterfaceMajor = 4;

// linux/mman.h, since Linux 5.14.
constexpr int kPopulateWrite = 23;

// Advises the kernel on the pages that have nothing but these bytes. Without the advice, everything
// is as it was: it only takes more time or memory.
void AdviseOn(std::span<std::byte> bytes, int advice) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* start = bytes.data();
  size_t size = bytes.size();
  if (std::align(page, page, start, size) == nullptr) return;
  static_cast<void>(madvise(start, size / page * page, advice));
}

bool Copy(char* field, size_t size, const std::string& text) {
  if (text.size() >= size) return false;
  std::memcpy(field, text.c_str(), text.size() + 1);
  return true;
}

}  // namespace

Request::Request(size_t payload_size)
    : size_(sizeof(struct dm_ioctl) + payload_size),
      bytes_(std::make_unique_for_overwrite<std::byte[]>(size_)) {
  header() = {};
  header().version[0] = kInterfaceMajor;
  header().data_size = static_cast<uint32_t>(size_);
  header().data_start = sizeof(struct dm_ioctl);
}

void Request::Populate(size_t payload_size) {
  AdviseOn(payload().first(std::min(payload_size, payload().size())), kPopulateWrite);
}

std::span<const std::byte> Request::answer() {
  const size_t start = std::min<size_t>(header().data_start, size_);
  const size_t end = std::min<size_t>(header().data_size, size_);
  return {bytes_.get() + start, end > start ? end - start : 0};
}

void Request::Discard(size_t answer_size) {
  const size_t start = std::min<size_t>(header().data_start, size_);
  AdviseOn({bytes_.get() + start, std::min(answer_size, size_ - start)}, MADV_DONTNEED);
}

std::optional<Failure> Request::Address(const Target& target) {
  if (!Copy(header().name, sizeof header().name, target.name) ||
      !Copy(header().uuid, sizeof header().uuid, target.uuid)) {
    return Failure{EINVAL, "dm_ioctl"};
  }
  header().dev = target.device;
  return std::nullopt;
}

Result<Control> Control::Open() {
  UniqueFd fd(open(kControl, O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return LastFailure("open");
  return Control(std::move(fd));
}

std::optional<Failure> Control::Send(unsigned long command, const char* name,
                                     Request& request) const {
  Entering(name);
  if (ioctl(fd_.get(), command, &request.header()) < 0) return LastFailure(name);
  return std::nullopt;
}

std::optional<Failure> Send(unsigned long command, const char* name, Request& request) {
  auto control = Control::Open();
  if (!control.ok()) return control.failure();
  return control.value().Send(command, name, request);
}

Result<Request> SendGrowing(unsigned long command, const char* name, const Target& target,
                            uint32_t flags, size_t (*guess)(const struct dm_ioctl&)) {
  // Room for the answer of most questions.
  constexpr size_t kFirstTry = 16 * 1024;
  constexpr size_t kLimit = size_t{1} << 30;
  for (size_t size = kFirstTry; size <= kLimit;) {
    Request request(size);
    if (auto failure = request.Address(target)) return *failure;
    request.header().flags = flags;
    if (auto failure = Send(command, name, request)) return *failure;
    if ((request.header().flags & DM_BUFFER_FULL_FLAG) == 0) return request;
    size = std::max(size * 4, guess ? guess(request.header()) : 0);
  }
  return Failure{ENOBUFS, name};
}

Device DeviceOf(const struct dm_ioctl& header) {
  const auto text = [](const char* field, size_t size) {
    return std::string(field, strnlen(field, size));
  };
  Device device;
  device.name = text(header.name, sizeof header.name);
  device.uuid = text(header.uuid, sizeof header.uuid);
  device.major = major(header.dev);
  device.minor = minor(header.dev);
  device.open_count = header.open_count;
  device.target_count = header.target_count;
  device.event_number = header.event_nr;
  device.flags = header.flags;
  return device;
}

}  // namespace dmloop::dm
