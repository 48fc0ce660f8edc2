#include "file_handle.h"

#include <fcntl.h>

#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>

#include "hex.h"
#include "places.h"
#include "progress.h"

namespace dmloop {

namespace {

// The longest of a local filesystem: btrfs has 20 bytes for a file, xfs 12, ext4 and f2fs 8.
constexpr unsigned kMostBytes = 20;
constexpr int kMostType = 0xff;

// A file_handle with room for its bytes.
union HandleBuffer {
  struct file_handle handle;
  std::array<std::byte, sizeof(struct file_handle) + kMostBytes> room;
};

std::optional<unsigned> HexAt(std::string_view text, size_t byte) {
  const std::string_view digits = text.substr(byte * 2, 2);
  unsigned value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (error != std::errc{} || end != digits.data() + 2) return std::nullopt;
  return value;
}

// False when the text is no handle.
bool Parse(std::string_view text, HandleBuffer& buffer) {
  if (text.size() < 2 || text.size() % 2 != 0 || text.size() / 2 - 1 > kMostBytes) return false;
  buffer.handle.handle_bytes = static_cast<unsigned>(text.size() / 2 - 1);
  std::byte* const bytes = buffer.room.data() + offsetof(struct file_handle, f_handle);
  for (size_t i = 0; i * 2 < text.size(); i++) {
    const auto value = HexAt(text, i);
    if (!value) return false;
    if (i == 0) {
      buffer.handle.handle_type = static_cast<int>(*value);
    } else {
      bytes[i - 1] = static_cast<std::byte>(*value);
    }
  }
  return true;
}

}  // namespace

Result<std::optional<std::string>> GetHandle(int fd) {
  HandleBuffer buffer = {};
  buffer.handle.handle_bytes = kMostBytes;
  int mount = 0;
  if (name_to_handle_at(fd, "", &buffer.handle, &mount, AT_EMPTY_PATH) < 0) {
    const int error = errno;
    // A container's seccomp filter says EPERM, a kernel without the call ENOSYS.
    if (error == EOPNOTSUPP || error == EOVERFLOW || error == ENOSYS || error == EPERM) {
      return std::optional<std::string>();
    }
    return LastFailure("name_to_handle_at");
  }
  if (buffer.handle.handle_type < 0 || buffer.handle.handle_type > kMostType) {
    return std::optional<std::string>();
  }
  std::string text;
  AppendHex(text, static_cast<unsigned>(buffer.handle.handle_type));
  const std::span room(buffer.room);
  text += HexOf(room.subspan(offsetof(struct file_handle, f_handle), buffer.handle.handle_bytes));
  return std::optional(std::move(text));
}

Result<UniqueFd> FindHandle(const std::string& place, DeviceNumber device,
                            const std::string& handle) {
  HandleBuffer buffer = {};
  if (!Parse(handle, buffer)) return Failure{EINVAL, "open_by_handle_at"};
  auto mount = OpenPlace(place, device);
  if (!mount.ok()) return mount.failure();
  Entering("open_by_handle_at");
  UniqueFd file(open_by_handle_at(mount.value().get(), &buffer.handle, O_PATH | O_CLOEXEC));
  if (!file.valid()) return LastFailure("open_by_handle_at");
  return file;
}

}  // namespace dmloop
