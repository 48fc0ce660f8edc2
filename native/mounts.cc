#include "mounts.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "small_files.h"

namespace dmloop {

namespace {

std::vector<std::string_view> Words(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    const size_t end = std::min(line.find(' '), line.size());
    words.push_back(line.substr(0, end));
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return words;
}

// The kernel writes white space and backslashes in paths as \ooo.
std::string Unescaped(std::string_view text) {
  std::string path;
  for (size_t i = 0; i < text.size(); i++) {
    unsigned code = 0;
    const std::string_view digits = text.substr(i + 1, 3);
    if (text[i] == '\\' && digits.size() == 3 &&
        std::from_chars(digits.data(), digits.data() + 3, code, 8).ptr == digits.data() + 3) {
      path += static_cast<char>(code);
      i += 3;
    } else {
      path += text[i];
    }
  }
  return path;
}

// Of a list with commas.
bool HasOption(std::string_view list, std::string_view option) {
  while (!list.empty()) {
    const size_t end = std::min(list.find(','), list.size());
    if (list.substr(0, end) == option) return true;
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return false;
}

// "ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [TAG ...] - TYPE SOURCE SUPER-OPTIONS"
std::optional<Mount> ParseMount(std::string_view line, const std::string& root) {
  const auto words = Words(line);
  const auto dash = std::find(words.begin(), words.end(), "-");
  if (words.size() < 7 || dash == words.end() || dash + 1 == words.end()) return std::nullopt;
  Mount mount;
  const auto number = ParseDeviceNumber(words[2]);
  if (!number) return std::nullopt;
  mount.number = *number;
  mount.place = root + Unescaped(words[4]);
  mount.read_only = HasOption(words[5], "ro");
  mount.idmapped = HasOption(words[5], "idmapped");
  mount.filesystem = *(dash + 1);
  mount.filesystem_read_only = dash + 3 < words.end() && HasOption(*(dash + 3), "ro");
  return mount;
}

// Of a process; empty where it ends meanwhile.
std::string ReadMountinfo(const std::string& process) {
  auto text = ReadText(process + "/mountinfo");
  return text.ok() ? std::move(text.value()).value_or("") : "";
}

// Calls a function with each line, until it returns true.
template <typename Visit>
void VisitLines(std::string_view lines, Visit visit) {
  while (!lines.empty()) {
    const size_t end = std::min(lines.find('\n'), lines.size());
    if (visit(lines.substr(0, end))) return;
    lines.remove_prefix(std::min(end + 1, lines.size()));
  }
}

// On any other filesystem there are none.
bool HasBlocks(const Mount& mount) {
  return mount.number.major != 0 || mount.filesystem == "btrfs";
}

void AppendMounts(const std::string& process, const std::string& root, std::vector<Mount>& mounts) {
  VisitLines(ReadMountinfo(process), [&](std::string_view line) {
    auto mount = ParseMount(line, root);
    if (mount && HasBlocks(*mount)) mounts.push_back(std::move(*mount));
    return false;
  });
}

// The number of the mount that an open file was opened through, as mountinfo has it.
std::string MountNumber(int fd) {
  constexpr std::string_view kName = "mnt_id:\t";
  auto text = ReadText("/proc/self/fdinfo/" + std::to_string(fd));
  if (!text.ok() || !text.value()) return "";
  const size_t start = text.value()->find(kName);
  if (start == std::string::npos) return "";
  const size_t end = text.value()->find('\n', start);
  return text.value()->substr(start + kName.size(), end - start - kName.size());
}

// Nothing where it is not in a process's mountinfo.
std::optional<Mount> MountIn(std::string_view mountinfo, const std::string& number) {
  std::optional<Mount> mount;
  VisitLines(mountinfo, [&](std::string_view line) {
    if (line.substr(0, line.find(' ')) != number) return false;
    mount = ParseMount(line, "");
    return true;
  });
  return mount;
}

void WritableFirst(std::vector<Mount>& mounts) {
  std::stable_sort(mounts.begin(), mounts.end(),
                   [](const Mount& a, const Mount& b) { return a.read_only < b.read_only; });
}

std::string NamespaceOf(const std::string& process) {
  std::array<char, PATH_MAX> name;
  const ssize_t size = readlink((process + "/ns/mnt").c_str(), name.data(), name.size());
  return size < 0 ? "" : std::string(name.data(), static_cast<size_t>(size));
}

}  // namespace

std::vector<std::string> Processes() {
  std::vector<std::string> processes;
  for (const std::string& name : NamesIn("/proc")) {
    if (name.find_first_not_of("0123456789") == std::string::npos) {
      processes.push_back("/proc/" + name);
    }
  }
  return processes;
}

std::vector<Mount> OwnMounts() {
  std::vector<Mount> mounts;
  AppendMounts("/proc/self", "", mounts);
  WritableFirst(mounts);
  return mounts;
}

std::optional<Mount> MountOf(int fd) { return MountOf(fd, ReadMountinfo("/proc/self")); }

std::optional<Mount> MountOf(int fd, std::string_view own_mountinfo) {
  const std::string number = MountNumber(fd);
  if (number.empty()) return std::nullopt;
  if (auto own = MountIn(own_mountinfo, number)) return own;
  // Also of this namespace: where this process has a root directory of its own (chroot(2)), its
  // mountinfo lacks what is outside.
  std::set<std::string> seen = {""};
  for (const std::string& process : Processes()) {
    if (!seen.insert(NamespaceOf(process)).second) continue;
    if (auto found = MountIn(ReadMountinfo(process), number)) return found;
  }
  return std::nullopt;
}

std::vector<Mount> ForeignMounts() {
  std::vector<Mount> mounts;
  std::set<std::string> seen = {"", NamespaceOf("/proc/self")};
  for (const std::string& process : Processes()) {
    if (seen.insert(NamespaceOf(process)).second) AppendMounts(process, process + "/root", mounts);
  }
  WritableFirst(mounts);
  return mounts;
}

}  // namespace dmloop
