#include "device_facts.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "small_files.h"

namespace dmloop {

namespace {

const std::string kDevices = "/sys/dev/block/";

// The text of an attribute, without the line break at its end; nothing where the device has no
// such attribute.
Result<std::optional<std::string>> Attribute(const std::string& path) {
  auto text = ReadText(path);
  if (text.ok() && text.value() && text.value()->ends_with('\n')) text.value()->pop_back();
  return text;
}

Result<DeviceFacts> ReadDevice(const std::string& number) {
  const std::string folder = kDevices + number;
  DeviceFacts facts;
  facts.number = number;
  facts.kernel_name = KernelName(folder);
  const std::array<std::pair<const char*, std::optional<std::string>*>, 3> attributes = {{
      {"/dm/name", &facts.mapper_name},
      {"/md/level", &facts.md_level},
      {"/loop/backing_file", &facts.backing_file},
  }};
  for (const auto& [name, value] : attributes) {
    auto text = Attribute(folder + name);
    if (!text.ok()) return text.failure();
    *value = std::move(text.value());
  }
  std::vector<std::string> names = NamesIn(folder + "/slaves");
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (name.starts_with('.')) continue;
    auto underlying = Attribute(folder + "/slaves/" + name + "/dev");
    if (!underlying.ok()) return underlying.failure();
    if (underlying.value()) facts.underlying.push_back(std::move(*underlying.value()));
  }
  return facts;
}

}  // namespace

std::optional<std::string> KernelName(const std::string& folder) {
  std::array<char, PATH_MAX> target;
  const ssize_t size = readlink(folder.c_str(), target.data(), target.size());
  if (size < 0) return std::nullopt;
  const std::string_view path(target.data(), static_cast<size_t>(size));
  return std::string(path.substr(path.rfind('/') + 1));
}

Result<std::vector<DeviceFacts>> ReadDevices(const std::string& device) {
  std::vector<DeviceFacts> found;
  std::vector<std::string> numbers = {device};
  for (size_t i = 0; i < numbers.size(); i++) {
    auto facts = ReadDevice(numbers[i]);
    if (!facts.ok()) return facts.failure();
    for (const std::string& below : facts.value().underlying) {
      if (std::find(numbers.begin(), numbers.end(), below) == numbers.end()) {
        numbers.push_back(below);
      }
    }
    found.push_back(std::move(facts.value()));
  }
  return found;
}

}  // namespace dmloop
