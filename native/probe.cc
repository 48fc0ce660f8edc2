#include "probe.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include "file_handle.h"
#include "files.h"
#include "filesystem_uuid.h"
#include "mounts.h"
#include "progress.h"
#include "small_files.h"

namespace dmloop {

namespace {

uint64_t NumberOr(const std::optional<std::string>& text, uint64_t otherwise) {
  uint64_t number = otherwise;
  if (text) std::from_chars(text->data(), text->data() + text->size(), number);
  return number;
}

// The lines whose third word is a device (proc_pid_mountinfo(5)).
std::string MountsOf(std::string_view mountinfo, std::string_view device) {
  std::string lines;
  while (!mountinfo.empty()) {
    const size_t end = std::min(mountinfo.find('\n'), mountinfo.size() - 1) + 1;
    const std::string_view line = mountinfo.substr(0, end);
    mountinfo.remove_prefix(end);
    const size_t second = line.find(' ') + 1;
    const size_t third = line.find(' ', second) + 1;
    if (line.substr(third, line.find(' ', third) - third) == device) lines += line;
  }
  return lines;
}

std::optional<std::string> KernelName(const std::string& folder) {
  std::array<char, PATH_MAX> target;
  const ssize_t size = readlink(folder.c_str(), target.data(), target.size());
  if (size < 0) return std::nullopt;
  const std::string_view path(target.data(), static_cast<size_t>(size));
  return std::string(path.substr(path.rfind('/') + 1));
}

// A text that may be missing, in place of the one that is given.
std::optional<Failure> ReadInto(std::string& text, const std::string& path) {
  auto found = ReadText(path);
  if (!found.ok()) return found.failure();
  text = std::move(found.value()).value_or("");
  return std::nullopt;
}

}  // namespace

Result<FileProbe> ProbeFile(int fd) {
  FileProbe probe;
  auto facts = Inspect(fd);
  if (!facts.ok()) return facts.failure();
  probe.facts = std::move(facts.value());

  const std::string device =
      std::to_string(probe.facts.device_major) + ":" + std::to_string(probe.facts.device_minor);
  const std::string folder = "/sys/dev/block/" + device;
  probe.kernel_name = KernelName(folder);
  if (probe.kernel_name) {
    // A partition's queue is its disk's.
    const std::string queue = "/queue/logical_block_size";
    auto block_size = ReadFirst({folder + queue, folder + "/.." + queue});
    if (!block_size.ok()) return block_size.failure();
    probe.block_size = NumberOr(block_size.value(), probe.block_size);
    auto sectors = ReadText(folder + "/size");
    if (!sectors.ok()) return sectors.failure();
    probe.device_size = NumberOr(sectors.value(), 0) * 512;
    auto failure = ReadInto(probe.ext4_options, "/proc/fs/ext4/" + *probe.kernel_name + "/options");
    if (failure) return *failure;
    auto files = FilesystemFiles(fd, probe.facts, *probe.kernel_name);
    if (!files.ok()) return files.failure();
    probe.filesystem_files = std::move(files.value());
  }
  std::string mountinfo;
  if (auto failure = ReadInto(mountinfo, "/proc/self/mountinfo")) return *failure;
  probe.mounts = MountsOf(mountinfo, device);
  if (auto failure = ReadInto(probe.swaps, "/proc/swaps")) return *failure;
  probe.loops = loop::List();
  return probe;
}

namespace {

Result<OpenedFile> Opened(UniqueFd fd) {
  OpenedFile opened;
  auto path = PathOf(fd.get());
  if (!path.ok()) return path.failure();
  opened.path = std::move(path.value());
  auto probe = ProbeFile(fd.get());
  if (!probe.ok()) return probe.failure();
  opened.probe = std::move(probe.value());
  opened.fd = std::move(fd);
  return opened;
}

}  // namespace

Result<OpenedFile> OpenFile(const std::string& path) {
  // The path is followed once. What it leads to is looked at, and only that is opened: between two
  // looks at a path another file may have got the name, or a link lead to a device.
  Entering("open");
  const UniqueFd found(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!found.valid()) return LastFailure("open", path);
  struct stat kind;
  if (fstat(found.get(), &kind) < 0) return LastFailure("fstat", path);
  if (!S_ISREG(kind.st_mode)) {
    OpenedFile none;
    none.path = path;
    none.probe.facts.mode = kind.st_mode;
    return none;
  }
  auto fd = Reopen(found.get(), O_RDONLY | O_NONBLOCK);
  if (!fd.ok()) return Failure{fd.failure().error, fd.failure().syscall, path};
  return Opened(std::move(fd.value()));
}

namespace {

// Tries one place of a filesystem after another, until a call says that it has what it came for.
template <typename At>
bool AtAnyPlace(uint32_t major, uint32_t minor, At at) {
  const auto in = [&](const std::vector<Mount>& mounts) {
    return std::any_of(mounts.begin(), mounts.end(), [&](const Mount& mount) {
      return mount.major == major && mount.minor == minor && at(mount.place);
    });
  };
  if (in(OwnMounts()) || in(ForeignMounts())) return true;
  const auto places = OpenPlaces(major, minor);
  return std::any_of(places.begin(), places.end(), at);
}

}  // namespace

Result<OpenedFile> OpenFileByHandle(uint32_t major, uint32_t minor, const std::string& handle) {
  Result<UniqueFd> outcome = Failure{ENODEV, "open_by_handle_at"};
  AtAnyPlace(major, minor, [&](const std::string& place) {
    auto fd = OpenHandle(place, major, minor, handle);
    // Only the filesystem itself says ESTALE or gives the file: what else fails is the way there.
    if (!fd.ok() && fd.failure().error != ESTALE) return false;
    outcome = std::move(fd);
    return true;
  });
  if (!outcome.ok()) return outcome.failure();
  return Opened(std::move(outcome.value()));
}

Result<std::optional<std::string>> FilesystemUuid(uint32_t major, uint32_t minor) {
  std::optional<std::string> uuid;
  AtAnyPlace(major, minor, [&](const std::string& place) {
    auto fd = OpenPlace(place, major, minor);
    if (!fd.ok()) return false;
    uuid = UuidOf(fd.value().get());
    return true;
  });
  return uuid;
}

}  // namespace dmloop
