#include "small_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <memory>
#include <string_view>

#include "files.h"
#include "progress.h"

namespace dmloop {

namespace {

// There is no such file; a device without the attribute says EINVAL, and one that has gone ENODEV.
bool IsAbsent(int error) {
  return error == ENOENT || error == ENOTDIR || error == EINVAL || error == ENODEV;
}

// The number of the mount that a descriptor leads to (proc_pid_fdinfo(5)): its filesystem is not
// asked.
Result<uint64_t> MountOf(const UniqueFd& fd) {
  auto text = ReadText("/proc/self/fdinfo/" + std::to_string(fd.get()));
  if (!text.ok()) return text.failure();
  constexpr std::string_view kField = "mnt_id:\t";
  const std::string info = std::move(text.value()).value_or("");
  const size_t at = info.find(kField);
  uint64_t number = 0;
  if (at != std::string::npos) {
    std::from_chars(info.data() + at + kField.size(), info.data() + info.size(), number);
  }
  return number;
}

struct CloseFolder {
  void operator()(DIR* folder) const { closedir(folder); }
};

}  // namespace

Result<std::string> ReadAll(const UniqueFd& file) {
  std::string text;
  std::array<char, 4096> part;
  for (;;) {
    Entering("read");
    const ssize_t count = read(file.get(), part.data(), part.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return LastFailure("read");
    text.append(part.data(), static_cast<size_t>(count));
    if (count == 0) return text;
  }
}

Result<std::optional<std::string>> ReadText(const std::string& path) {
  Entering("open");
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) {
    if (IsAbsent(errno)) return std::optional<std::string>();
    return LastFailure("open", path);
  }
  auto text = ReadAll(file);
  if (text.ok()) return std::optional(std::move(text.value()));
  if (IsAbsent(text.failure().error)) return std::optional<std::string>();
  return Failure{text.failure().error, "read", path};
}

Result<std::optional<std::string>> ReadFirst(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    auto text = ReadText(path);
    if (!text.ok() || text.value()) return text;
  }
  return std::optional<std::string>();
}

std::vector<std::string> NamesIn(const std::string& path) {
  const std::unique_ptr<DIR, CloseFolder> folder(opendir(path.c_str()));
  std::vector<std::string> names;
  if (!folder) return names;
  while (const struct dirent* entry = readdir(folder.get())) names.push_back(entry->d_name);
  return names;
}

Result<FolderNames> ListFolder(const std::string& path, uint64_t mount) {
  FolderNames names;
  Entering("open");
  const UniqueFd found(open(path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!found.valid()) {
    if (errno == ENOENT || errno == ENOTDIR) return names;
    return LastFailure("open", path);
  }
  auto on = MountOf(found);
  if (!on.ok()) return on.failure();
  if (on.value() != mount) return names;
  auto opened = Reopen(found.get(), O_RDONLY | O_DIRECTORY);
  if (!opened.ok()) return opened.failure();
  const std::unique_ptr<DIR, CloseFolder> folder(fdopendir(opened.value().get()));
  if (!folder) return LastFailure("fdopendir", path);
  static_cast<void>(opened.value().release());
  for (;;) {
    Entering("getdents64");
    errno = 0;
    const struct dirent* const entry = readdir(folder.get());
    if (entry == nullptr && errno != 0) return LastFailure("getdents64", path);
    if (entry == nullptr) return names;
    std::string name = entry->d_name;
    if (entry->d_type == DT_REG) names.files.push_back(std::move(name));
    if (entry->d_type == DT_DIR && name != "." && name != "..") {
      names.folders.push_back(std::move(name));
    }
  }
}

Result<Folder> ReadFolder(const std::string& path, const std::string& suffix) {
  Folder files;
  for (const std::string& name : NamesIn(path)) {
    if (!name.ends_with(suffix)) continue;
    auto text = ReadText(path + "/" + name);
    if (!text.ok()) return text.failure();
    if (text.value()) files.push_back({name, std::move(*text.value())});
  }
  return files;
}

}  // namespace dmloop
