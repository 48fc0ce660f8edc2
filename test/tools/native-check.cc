// Checks the parts of the native half that need neither Node nor device-mapper, with random input,
// against plain models of what they should do. Run by itself and under AddressSanitizer.
#include <linux/dm-ioctl.h>
#include <linux/fiemap.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "../../native/dm_table.h"
#include "../../native/extent_walk.h"
#include "../../native/segments.h"

namespace {

std::mt19937_64 g_random(2006);
uint64_t Below(uint64_t limit) { return g_random() % limit; }

void Check(bool truth, const char* what, int round) {
  if (truth) return;
  std::fprintf(stderr, "native-check: %s, round %d\n", what, round);
  std::exit(1);
}

// The kernel counts `next` from the first record in an answer, and from the record itself in a
// request: turns one into the other.
void AnswerOf(std::vector<std::byte>& request, uint32_t targets) {
  size_t position = 0;
  for (uint32_t i = 0; i < targets; i++) {
    struct dm_target_spec spec;
    std::memcpy(&spec, request.data() + position, sizeof spec);
    spec.next += static_cast<uint32_t>(position);
    std::memcpy(request.data() + position, &spec, sizeof spec);
    position = spec.next;
  }
}

void CheckTables() {
  for (int round = 0; round < 2000; round++) {
    const std::vector<std::string> names = {"8:1", "253:1234", "259:1048575"};
    dmloop::SegmentPacker packer;
    uint64_t start = 0;
    for (uint64_t i = Below(200); i > 0; i--) {
      const uint64_t length = 1 + Below(1000);
      const auto device = static_cast<int32_t>(Below(names.size() + 1)) - 1;
      packer.Add({start, length, device, device < 0 ? 0 : Below(uint64_t{1} << 52)});
      start += length;
    }
    const dmloop::PackedRows rows = packer.Finish();
    std::vector<std::byte> bytes(dmloop::dm::TableSize(rows.span(), names));
    const uint32_t targets = dmloop::dm::WriteTable(rows.span(), names, bytes);
    Check(targets * dmloop::kSegmentColumns == rows.size(), "a record a segment", round);
    AnswerOf(bytes, targets);
    auto table = dmloop::dm::ReadTable(bytes, targets);
    Check(table.ok(), "a written table reads", round);
    const auto back = table.value().rows.span();
    Check(back.size() == rows.size(), "and has as many rows", round);
    const auto name = [](const std::vector<std::string>& list, double device) {
      return device < 0 ? std::string("zero") : list[static_cast<size_t>(device)];
    };
    for (size_t i = 0; i < back.size(); i += dmloop::kSegmentColumns) {
      const auto was = rows.span().subspan(i, dmloop::kSegmentColumns);
      const auto is = back.subspan(i, dmloop::kSegmentColumns);
      Check(is[0] == was[0] && is[1] == was[1] && is[3] == was[3], "the same numbers", round);
      Check(name(table.value().devices, is[2]) == name(names, was[2]), "the same device", round);
    }

    // Whatever the bytes are, reading them ends and stays inside.
    for (int harm = 0; harm < 8 && !bytes.empty(); harm++) {
      bytes[Below(bytes.size())] = static_cast<std::byte>(Below(256));
    }
    bytes.resize(Below(bytes.size() + 1));
    bytes.shrink_to_fit();
    static_cast<void>(dmloop::dm::ReadTable(bytes, targets + static_cast<uint32_t>(Below(3))));
  }
}

void CheckExtents() {
  constexpr uint64_t kFile = 300;
  for (int round = 0; round < 5000; round++) {
    const uint64_t offset = Below(100);
    const uint64_t length = 1 + Below(kFile - offset);
    // For every byte of the file where it lies and its flags, or that it is in a hole.
    constexpr uint64_t kHole = ~uint64_t{0};
    std::vector<std::pair<uint64_t, uint32_t>> model(kFile, {kHole, 0});
    dmloop::ExtentCollector collector(offset, length);
    uint64_t logical = 0;
    uint64_t physical = 1000;
    while (logical < kFile) {
      const uint64_t run = std::min(1 + Below(20), kFile - logical);
      if (Below(4) != 0) {
        if (Below(2) == 0) physical = 1000 + Below(5000);
        constexpr uint32_t kFlags[] = {0, FIEMAP_EXTENT_MERGED, FIEMAP_EXTENT_LAST,
                                       FIEMAP_EXTENT_UNWRITTEN};
        const uint32_t flags = kFlags[Below(4)];
        for (uint64_t i = 0; i < run; i++) model[logical + i] = {physical + i, flags};
        Check(collector.Add({logical, physical, run, flags}), "an extent is taken", round);
        physical += run;
      }
      logical += run;
    }
    const dmloop::ExtentMap map = collector.Finish();
    const auto rows = map.rows.span();
    const auto holes = map.holes.span();
    size_t row = 0;
    size_t hole = 0;
    uint64_t cursor = offset;
    while (cursor < offset + length) {
      const bool in_hole = hole < holes.size() && static_cast<uint64_t>(holes[hole]) == cursor;
      const bool in_extent = row < rows.size() && static_cast<uint64_t>(rows[row]) == cursor;
      Check(in_hole != in_extent, "each byte is in an extent or a hole", round);
      const auto run = static_cast<uint64_t>(in_hole ? holes[hole + 1] : rows[row + 2]);
      for (uint64_t i = 0; i < run; i++) {
        const auto& [place, flags] = model[cursor + i];
        if (in_hole) {
          Check(place == kHole, "a hole is one", round);
        } else {
          Check(place == static_cast<uint64_t>(rows[row + 1]) + i, "a byte lies there", round);
          const auto found = static_cast<uint32_t>(rows[row + 3]);
          constexpr uint32_t kJudged = FIEMAP_EXTENT_UNWRITTEN;
          Check((found & kJudged) == (flags & kJudged), "judged flags do not spread", round);
          Check((map.flags & flags) == flags, "and all are in the sum", round);
        }
      }
      cursor += run;
      if (in_hole) {
        hole += 2;
      } else {
        row += dmloop::kExtentColumns;
      }
    }
    Check(cursor == offset + length, "the range is covered exactly", round);
  }
  dmloop::ExtentCollector collector(0, 4096);
  Check(!collector.Add({0, uint64_t{1} << 53, 4096, 0}), "no rounded address", 0);
  Check(!collector.Add({0, 0, ~uint64_t{0}, 0}), "no length that wraps", 0);
}

}  // namespace

int main() {
  CheckTables();
  CheckExtents();
  std::puts("native-check: tables and extents agree with their models");
  return 0;
}
