#include "dm_table.h"

#include <linux/dm-ioctl.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "safe_integer.h"
#include "segments.h"

namespace dmloop::dm {

namespace {

constexpr size_t kAlignment = 8;
constexpr size_t kTellEvery = size_t{1} << 20;
// Of a 64-bit number.
constexpr size_t kMostDigits = 20;

size_t Padded(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// The next word of a text, which it is taken off; empty at the end.
std::string_view TakeWord(std::string_view& text) {
  const size_t end = std::min(text.find(' '), text.size());
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

std::optional<uint64_t> TakeNumber(std::string_view& text) {
  const std::string_view word = TakeWord(text);
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return number;
}

// Numbers devices in the order of their first appearance, so that equal tables pack equally.
class DeviceNumbers {
 public:
  int32_t Of(std::string_view device) {
    // Segments of one device come in long runs.
    if (!list_.empty() && list_[static_cast<size_t>(last_)] == device) return last_;
    const auto [found, added] =
        numbers_.try_emplace(std::string(device), static_cast<int32_t>(list_.size()));
    if (added) list_.emplace_back(device);
    return last_ = found->second;
  }
  std::vector<std::string> Finish() { return std::move(list_); }

 private:
  std::unordered_map<std::string, int32_t> numbers_;
  std::vector<std::string> list_;
  int32_t last_ = 0;
};

// "COLUMNS CHUNK [DEVICE OFFSET]..." (Documentation/admin-guide/device-mapper/striped.rst), packed
// as Layer::stripes is.
bool AppendStripe(std::string_view text, DeviceNumbers& numbers, PackedRows& stripes) {
  const auto columns = TakeNumber(text);
  const auto chunk = TakeNumber(text);
  if (!columns || !chunk || *columns == 0 || *chunk == 0) return false;
  stripes.Append(*chunk, *columns);
  for (uint64_t i = 0; i < *columns; i++) {
    const std::string_view device = TakeWord(text);
    const auto offset = TakeNumber(text);
    if (device.empty() || !offset) return false;
    stripes.Append(numbers.Of(device), *offset);
  }
  return true;
}

const char* TargetName(int32_t device) {
  if (device >= 0) return "linear";
  return device == kErrorTarget ? "error" : "zero";
}

}  // namespace

size_t TableRoom(const SegmentSource& segments, const std::vector<std::string>& devices) {
  size_t longest = 0;
  for (const std::string& device : devices) longest = std::max(longest, device.size());
  return segments.size() *
         (sizeof(struct dm_target_spec) + Padded(longest + sizeof ' ' + kMostDigits + 1));
}

size_t LeastTableSize(const SegmentSource& segments) {
  return segments.size() * (sizeof(struct dm_target_spec) + kAlignment);
}

WrittenTable WriteTable(const SegmentSource& segments, const std::vector<std::string>& devices,
                        std::span<std::byte> out) {
  WrittenTable written;
  segments.ForEach([&](const Segment& segment) {
    std::byte* const record = out.data() + written.bytes;
    char* const parameters = reinterpret_cast<char*>(record + sizeof(struct dm_target_spec));
    const bool linear = segment.device >= 0;
    char* text = parameters;
    if (linear) {
      const std::string& device = devices[static_cast<size_t>(segment.device)];
      std::memcpy(text, device.data(), device.size());
      text += device.size();
      *text++ = ' ';
      text = std::to_chars(text, text + kMostDigits, segment.offset).ptr;
    }
    // The end of the text and the padding: the kernel copies these bytes, so none is left over.
    const size_t length = Padded(static_cast<size_t>(text - parameters) + 1);
    std::memset(text, 0, static_cast<size_t>(parameters + length - text));

    struct dm_target_spec spec = {};
    spec.sector_start = segment.start;
    spec.length = segment.length;
    spec.next = static_cast<uint32_t>(sizeof spec + length);
    std::strncpy(spec.target_type, TargetName(segment.device), sizeof spec.target_type - 1);
    std::memcpy(record, &spec, sizeof spec);
    written.bytes += spec.next;
    written.targets++;
  });
  return written;
}

Result<Table> ReadTable(std::span<const std::byte> in, uint32_t target_count,
                        const ReadSoFar& read_so_far) {
  const Failure malformed{EBADMSG, "DM_TABLE_STATUS"};
  // Packed as doubles they would be rounded, to sectors that are somebody else's.
  const Failure too_large{EOVERFLOW, "DM_TABLE_STATUS"};
  Table table;
  DeviceNumbers numbers;
  size_t position = 0;
  size_t told = 0;
  for (uint32_t i = 0; i < target_count; i++) {
    if (read_so_far && position > told + kTellEvery) read_so_far(told = position);
    if (position > in.size() || in.size() - position < sizeof(struct dm_target_spec)) {
      return malformed;
    }
    struct dm_target_spec spec;
    std::memcpy(&spec, in.data() + position, sizeof spec);
    // The kernel fills all bytes but the last, which may hold anything (retrieve_status in
    // drivers/md/dm-ioctl.c): "snapshot-origin" is as long as a name can be.
    const std::string_view target(spec.target_type,
                                  strnlen(spec.target_type, sizeof spec.target_type - 1));
    const auto* text = reinterpret_cast<const char*>(in.data() + position + sizeof spec);
    const size_t room = in.size() - position - sizeof spec;
    std::string_view parameters(text, strnlen(text, room));

    Segment segment{spec.sector_start, spec.length, kOtherTarget, 0};
    if (target == "linear") {
      const std::string_view device = TakeWord(parameters);
      const auto offset = TakeNumber(parameters);
      if (device.empty() || !offset) return malformed;
      segment.device = numbers.Of(device);
      segment.offset = *offset;
    } else if (target == "zero") {
      segment.device = kZeroTarget;
    } else if (target == "striped") {
      segment.device = kStripedTarget;
      segment.offset = table.stripes.size();
      if (!AppendStripe(parameters, numbers, table.stripes)) return malformed;
    } else {
      table.others.push_back(
          {spec.sector_start, spec.length, std::string(target), std::string(parameters)});
    }
    if (std::max({segment.start, segment.length, segment.offset}) > kMaxSafeInteger) {
      return too_large;
    }
    table.rows.Append(segment.start, segment.length, segment.device, segment.offset);
    // In an answer, unlike in a request, `next` counts from the first record.
    position = spec.next;
  }
  for (const double number : table.stripes.span()) {
    if (number > static_cast<double>(kMaxSafeInteger)) return too_large;
  }
  table.devices = numbers.Finish();
  return table;
}

}  // namespace dmloop::dm
