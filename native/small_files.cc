#include "small_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "progress.h"

namespace dmloop {

namespace {

// There is no such file; a device without the attribute says EINVAL, and one that has gone ENODEV.
bool IsAbsent(int error) {
  return error == ENOENT || error == ENOTDIR || error == EINVAL || error == ENODEV;
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
