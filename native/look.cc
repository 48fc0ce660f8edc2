#include "look.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

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

Result<Look> LookAt(int fd) {
  Look look;
  auto facts = Inspect(fd);
  if (!facts.ok()) return facts.failure();
  look.facts = std::move(facts.value());

  const std::string device =
      std::to_string(look.facts.device_major) + ":" + std::to_string(look.facts.device_minor);
  const std::string folder = "/sys/dev/block/" + device;
  look.kernel_name = KernelName(folder);
  if (look.kernel_name) {
    // A partition's queue is its disk's.
    const std::string queue = "/queue/logical_block_size";
    auto block_size = ReadFirst({folder + queue, folder + "/.." + queue});
    if (!block_size.ok()) return block_size.failure();
    look.block_size = NumberOr(block_size.value(), look.block_size);
    auto sectors = ReadText(folder + "/size");
    if (!sectors.ok()) return sectors.failure();
    look.device_size = NumberOr(sectors.value(), 0) * 512;
    auto failure = ReadInto(look.ext4_options, "/proc/fs/ext4/" + *look.kernel_name + "/options");
    if (failure) return *failure;
  }
  std::string mountinfo;
  if (auto failure = ReadInto(mountinfo, "/proc/self/mountinfo")) return *failure;
  look.mounts = MountsOf(mountinfo, device);
  if (auto failure = ReadInto(look.swaps, "/proc/swaps")) return *failure;
  look.loops = loop::List();
  return look;
}

Result<OpenedFile> OpenFile(const std::string& path) {
  OpenedFile opened;
  std::array<char, PATH_MAX> resolved;
  if (realpath(path.c_str(), resolved.data()) == nullptr) return LastFailure("realpath", path);
  opened.path = resolved.data();
  struct stat kind;
  if (stat(resolved.data(), &kind) < 0) return LastFailure("stat", opened.path);
  opened.look.facts.mode = kind.st_mode;
  if (!S_ISREG(kind.st_mode)) return opened;

  UniqueFd fd(open(resolved.data(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) return LastFailure("open", opened.path);
  auto look = LookAt(fd.get());
  if (!look.ok()) return look.failure();
  opened.look = std::move(look.value());
  // Another file may have got the name between the two calls.
  if (S_ISREG(opened.look.facts.mode)) opened.fd = std::move(fd);
  return opened;
}

}  // namespace dmloop
