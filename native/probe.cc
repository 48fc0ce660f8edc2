#include "probe.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "device_facts.h"
#include "file_handle.h"
#include "files.h"
#include "filesystem_uuid.h"
#include "mounts.h"
#include "places.h"
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

  const std::string folder = "/sys/dev/block/" + TextOf(probe.facts.device);
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
  probe.mounts = MountsOf(mountinfo, TextOf(probe.facts.filesystem));
  if (const auto mount = MountOf(fd, mountinfo)) probe.mount_idmapped = mount->idmapped;
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

// Opens what was found; `path` is for failures, and for what is not opened.
Result<OpenedFile> OpenFound(const UniqueFd& found, const std::string& path, int flags) {
  OpenedFile none;
  struct stat stat;
  if (fstat(found.get(), &stat) < 0) return LastFailure("fstat", path);
  none.path = path;
  FileFacts& facts = none.probe.facts;
  facts.mode = stat.st_mode;
  facts.inode = stat.st_ino;
  facts.number = {major(stat.st_dev), minor(stat.st_dev)};
  facts.filesystem = facts.number;
  if (!S_ISREG(stat.st_mode)) return none;
  auto fd = Reopen(found.get(), flags);
  if (fd.ok()) return Opened(std::move(fd.value()));
  if (fd.failure().error != EAGAIN) return Failure{fd.failure().error, fd.failure().syscall, path};
  none.leased = true;
  return none;
}

}  // namespace

Result<OpenedFile> OpenFile(const std::string& path, bool writable) {
  // The path is resolved once. What is there is checked, and only that is opened: if the path were
  // resolved again, it might be another file's, or a link to a device.
  Entering("open");
  const UniqueFd found(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!found.valid()) return LastFailure("open", path);
  return OpenFound(found, path, writable ? O_RDWR : O_RDONLY);
}

namespace {

// Tries the mounts of a filesystem one after another, until a call returns true. The call gets a
// place on the mount, and whether all of the filesystem is read-only.
template <typename At>
bool AtAnyMount(DeviceNumber device, At at) {
  const auto in = [&](const std::vector<Mount>& mounts) {
    return std::any_of(mounts.begin(), mounts.end(), [&](const Mount& mount) {
      // Of btrfs the number does not tell; the call finds out.
      return (mount.number == device || mount.number.major == 0) &&
             at(mount.place, mount.filesystem_read_only);
    });
  };
  return in(OwnMounts()) || in(ForeignMounts());
}

// The same for what processes have open on the filesystem.
template <typename At>
bool AtAnyOpenPlace(DeviceNumber device, At at) {
  const auto places = OpenPlaces(device);
  return std::any_of(places.begin(), places.end(),
                     [&](const auto& place) { return at(place, false); });
}

// How unsuitable the mount of a descriptor is for changes to its file; 0 is not at all. It is that
// of the descriptor itself, for another mount may cover the one that was listed. Where all of the
// filesystem is read-only no mount is better than another.
int DrawbacksOf(int fd, bool all_read_only) {
  struct statvfs mount;
  Entering("fstatvfs");
  const bool read_only =
      !all_read_only && fstatvfs(fd, &mount) == 0 && (mount.f_flag & ST_RDONLY) != 0;
  return (read_only ? 2 : 0) + (MountOf(fd).value_or(Mount()).idmapped ? 1 : 0);
}

}  // namespace

Result<OpenedFile> OpenFileByHandle(DeviceNumber device, const std::string& handle) {
  // The file, found through the most suitable mount so far.
  std::optional<UniqueFd> best;
  int drawbacks = 0;
  std::optional<Failure> stale;
  // The outcome where no place gives one: why the last of them did not, where that is worth
  // telling.
  Result<OpenedFile> otherwise = Failure{ENODEV, "open_by_handle_at"};
  const auto at = [&](const std::string& place, bool all_read_only) {
    auto found = FindHandle(place, device, handle);
    if (found.ok()) {
      const int now = DrawbacksOf(found.value().get(), all_read_only);
      if (best && now >= drawbacks) return false;
      best = std::move(found.value());
      drawbacks = now;
      return drawbacks == 0;
    }
    // Only the filesystem itself says ESTALE: what else fails is the way there.
    const Failure& failure = found.failure();
    if (failure.error == ESTALE) {
      stale = failure;
    } else if (failure.error == EPERM && failure.syscall == std::string_view("open_by_handle_at")) {
      otherwise = failure;
    } else if (failure.error == EAGAIN) {
      auto other = OpenFile(place, false);
      if (other.ok() && other.value().leased) otherwise = std::move(other);
    }
    return stale.has_value();
  };
  if (!AtAnyMount(device, at) && !best) AtAnyOpenPlace(device, at);
  if (stale) return *stale;
  if (!best) return otherwise;
  auto path = PathOf(best->get());
  if (!path.ok()) return path.failure();
  return OpenFound(*best, path.value(), O_RDONLY);
}

Result<std::optional<std::string>> FilesystemUuid(DeviceNumber device) {
  std::optional<std::string> uuid;
  const auto at = [&](const std::string& place, bool) {
    auto fd = OpenPlace(place, device);
    if (!fd.ok()) return false;
    uuid = UuidOf(fd.value().get());
    return true;
  };
  if (!AtAnyMount(device, at)) AtAnyOpenPlace(device, at);
  return uuid;
}

}  // namespace dmloop
