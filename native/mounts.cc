#include "mounts.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <set>
#include <string_view>

#include "file_handle.h"
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

// "ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [TAG ...] - TYPE SOURCE SUPER-OPTIONS"
std::optional<Mount> MountOf(std::string_view line, const std::string& root) {
  const auto words = Words(line);
  const auto dash = std::find(words.begin(), words.end(), "-");
  if (words.size() < 7 || dash == words.end() || dash + 1 == words.end()) return std::nullopt;
  Mount mount;
  const std::string_view device = words[2];
  const char* const end = device.data() + device.size();
  const auto major = std::from_chars(device.data(), end, mount.major);
  if (major.ec != std::errc{} || major.ptr == end) return std::nullopt;
  if (std::from_chars(major.ptr + 1, end, mount.minor).ptr != end) return std::nullopt;
  // Without a device there are no blocks.
  if (mount.major == 0) return std::nullopt;
  mount.place = root + Unescaped(words[4]);
  const std::string_view options = words[5];
  mount.read_only = options == "ro" || options.starts_with("ro,");
  mount.filesystem = *(dash + 1);
  return mount;
}

void AppendMounts(const std::string& process, const std::string& root, std::vector<Mount>& mounts) {
  auto text = ReadText(process + "/mountinfo");
  // A process that ends meanwhile has none.
  if (!text.ok() || !text.value()) return;
  std::string_view lines = *text.value();
  while (!lines.empty()) {
    const size_t end = std::min(lines.find('\n'), lines.size());
    if (auto mount = MountOf(lines.substr(0, end), root)) mounts.push_back(std::move(*mount));
    lines.remove_prefix(std::min(end + 1, lines.size()));
  }
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

std::vector<std::string> Processes() {
  std::vector<std::string> processes;
  for (const std::string& name : NamesIn("/proc")) {
    if (name.find_first_not_of("0123456789") == std::string::npos) {
      processes.push_back("/proc/" + name);
    }
  }
  return processes;
}

}  // namespace

std::vector<Mount> OwnMounts() {
  std::vector<Mount> mounts;
  AppendMounts("/proc/self", "", mounts);
  WritableFirst(mounts);
  return mounts;
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

std::vector<std::string> OpenPlaces(uint32_t major, uint32_t minor) {
  std::vector<std::string> places;
  const auto add = [&](std::string place) {
    if (FindPlace(place, major, minor).ok()) places.push_back(std::move(place));
  };
  for (const std::string& process : Processes()) {
    add(process + "/root");
    add(process + "/cwd");
    for (const std::string& name : NamesIn(process + "/fd")) add(process + "/fd/" + name);
  }
  return places;
}

}  // namespace dmloop
