#pragma once

#include <linux/dm-ioctl.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "device_mapper.h"
#include "unique_fd.h"

namespace dmloop::dm {

// One ioctl's buffer: the header, then the payload that goes in or comes out.
class Request {
 public:
  explicit Request(size_t payload_size = 0);

  struct dm_ioctl& header() { return *reinterpret_cast<struct dm_ioctl*>(bytes_.get()); }
  std::span<std::byte> payload() {
    return {bytes_.get() + sizeof(struct dm_ioctl), size_ - sizeof(struct dm_ioctl)};
  }
  // Has memory for the first bytes of the payload, which will be written, all at once: else the
  // first write to each page of a large table is a fault of its own.
  void Populate(size_t payload_size);
  // Only so many bytes of the payload count.
  void Shorten(size_t payload_size) {
    header().data_size = static_cast<uint32_t>(sizeof(struct dm_ioctl) + payload_size);
  }
  // What the kernel wrote behind the header.
  std::span<const std::byte> answer();
  // Gives the memory of the first bytes of the answer back, which nobody reads any more.
  void Discard(size_t answer_size);

  // EINVAL when a name or UUID does not fit.
  std::optional<Failure> Address(const Target& target);

 private:
  size_t size_;
  std::unique_ptr<std::byte[]> bytes_;
};

// /dev/mapper/control, open.
class Control {
 public:
  static Result<Control> Open();

  std::optional<Failure> Send(unsigned long command, const char* name, Request& request) const;

 private:
  explicit Control(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

// Opens it for one request.
std::optional<Failure> Send(unsigned long command, const char* name, Request& request);

// Sends a request whose answer may need more room than the buffer has, and grows it until it fits.
// `guess` may know from an answer that did not fit how many bytes will do.
Result<Request> SendGrowing(unsigned long command, const char* name, const Target& target,
                            uint32_t flags, size_t (*guess)(const struct dm_ioctl&) = nullptr);

Device DeviceOf(const struct dm_ioctl& header);

}  // namespace dmloop::dm
