#include "file_handle.h"

#include <fcntl.h>

#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "files.h"
#include "hex.h"
#include "progress.h"
#include "statx.h"

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
  const std::byte* const bytes = buffer.room.data() + offsetof(struct file_handle, f_handle);
  for (unsigned i = 0; i < buffer.handle.handle_bytes; i++) {
    AppendHex(text, std::to_integer<unsigned>(bytes[i]));
  }
  return std::optional(std::move(text));
}

Result<UniqueFd> FindPlace(const std::string& place, uint32_t major, uint32_t minor) {
  Entering("open");
  UniqueFd found(open(place.c_str(), O_PATH | O_CLOEXEC));
  if (!found.valid()) return LastFailure("open", place);
  // The server of a network filesystem may be gone. Most of these have no handles, which the kernel
  // says without asking the server: 9p is one, and ignores AT_STATX_DONT_SYNC
  // (v9fs_vfs_getattr_dotl, fs/9p/vfs_inode.c). NFS and FUSE do not.
  HandleBuffer buffer = {};
  buffer.handle.handle_bytes = kMostBytes;
  int mount = 0;
  Entering("name_to_handle_at");
  if (name_to_handle_at(found.get(), "", &buffer.handle, &mount, AT_EMPTY_PATH) < 0 &&
      errno == EOPNOTSUPP) {
    return Failure{EXDEV, "open", place};
  }
  Entering("statx");
  struct statx stat;
  constexpr int kFlags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
  if (statx(found.get(), "", kFlags, STATX_TYPE, &stat) < 0) return LastFailure("statx", place);
  // To open a device or a pipe can do something.
  const bool opens = S_ISDIR(stat.stx_mode) || S_ISREG(stat.stx_mode);
  if (!opens || stat.stx_dev_major != major || stat.stx_dev_minor != minor) {
    return Failure{EXDEV, "open", place};
  }
  return found;
}

Result<UniqueFd> OpenPlace(const std::string& place, uint32_t major, uint32_t minor) {
  auto found = FindPlace(place, major, minor);
  if (!found.ok()) return found.failure();
  return Reopen(found.value().get(), O_RDONLY);
}

Result<UniqueFd> FindHandle(const std::string& place, uint32_t major, uint32_t minor,
                            const std::string& handle) {
  HandleBuffer buffer = {};
  if (!Parse(handle, buffer)) return Failure{EINVAL, "open_by_handle_at"};
  auto mount = OpenPlace(place, major, minor);
  if (!mount.ok()) return mount.failure();
  Entering("open_by_handle_at");
  UniqueFd file(open_by_handle_at(mount.value().get(), &buffer.handle, O_PATH | O_CLOEXEC));
  if (!file.valid()) return LastFailure("open_by_handle_at");
  return file;
}

}  // namespace dmloop
