// Checks the parts of the native half that need neither Node nor device-mapper, with random input,
// against plain models of what they should do. Run by itself and under AddressSanitizer.
#include <linux/dm-ioctl.h>
#include <linux/fiemap.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../../native/dm_table.h"
#include "../../native/extent_list.h"
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

// A table in plain numbers: random segments of three devices and the zero target.
std::vector<double> RandomTable(size_t devices) {
  std::vector<double> rows;
  uint64_t start = 0;
  for (uint64_t i = Below(200); i > 0; i--) {
    const uint64_t length = 1 + Below(1000);
    const auto device = static_cast<int32_t>(Below(devices + 1)) - 1;
    const uint64_t offset = device < 0 ? 0 : Below(uint64_t{1} << 52);
    for (const uint64_t number : {start, length}) rows.push_back(static_cast<double>(number));
    rows.push_back(device);
    rows.push_back(static_cast<double>(offset));
    start += length;
  }
  return rows;
}

void CheckTables() {
  for (int round = 0; round < 2000; round++) {
    const std::vector<std::string> names = {"8:1", "253:1234", "259:1048575"};
    const std::vector<double> rows = RandomTable(names.size());
    const dmloop::PackedSegments segments(rows);
    std::vector<std::byte> bytes(dmloop::dm::TableRoom(segments, names));
    const auto written = dmloop::dm::WriteTable(segments, names, bytes);
    const uint32_t targets = written.targets;
    Check(targets * dmloop::kSegmentColumns == rows.size(), "a record a segment", round);
    Check(written.bytes <= bytes.size(), "there is room for all", round);
    bytes.resize(written.bytes);
    AnswerOf(bytes, targets);
    auto table = dmloop::dm::ReadTable(bytes, targets);
    Check(table.ok(), "a written table reads", round);
    const auto back = table.value().rows.span();
    Check(back.size() == rows.size(), "and has as many rows", round);
    const auto name = [](const std::vector<std::string>& list, double device) {
      return device < 0 ? std::string("zero") : list[static_cast<size_t>(device)];
    };
    for (size_t i = 0; i < back.size(); i += dmloop::kSegmentColumns) {
      const auto was = std::span(rows).subspan(i, dmloop::kSegmentColumns);
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

bool Same(const dmloop::Ranges& a, const dmloop::Ranges& b) {
  return a.count == b.count && a.offset == b.offset && a.length == b.length;
}

void CheckExtents() {
  constexpr uint64_t kFile = 300;
  constexpr uint64_t kBlock = 8;
  for (int round = 0; round < 5000; round++) {
    const uint64_t offset = Below(100);
    const uint64_t length = 1 + Below(kFile - offset);
    // For every byte of the file where it lies and its flags, or that it is in a hole.
    constexpr uint64_t kHole = ~uint64_t{0};
    std::vector<std::pair<uint64_t, uint32_t>> model(kFile, {kHole, 0});
    dmloop::MapMaker maker(offset, kBlock);
    dmloop::ExtentMerger merger(offset, length, maker);
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
        Check(merger.Add({logical, physical, run, flags}), "an extent is taken", round);
        physical += run;
      }
      logical += run;
    }
    merger.Finish();
    const dmloop::ExtentMap map = maker.Finish(offset + length);
    dmloop::ExtentList::Reader reader(map.extents);
    dmloop::Ranges holes;
    dmloop::Ranges unaligned;
    std::map<uint32_t, dmloop::Ranges> flagged;
    uint64_t cursor = offset;
    const auto note_hole = [&](uint64_t until) {
      if (until > cursor) holes.Note(cursor, until - cursor);
      for (; cursor < until; cursor++) Check(model[cursor].first == kHole, "a hole is one", round);
    };
    while (const dmloop::Extent* extent = reader.Next()) {
      note_hole(extent->logical);
      Check(extent->logical == cursor, "extents are in order", round);
      for (uint64_t i = 0; i < extent->length; i++) {
        const auto& [place, flags] = model[cursor + i];
        Check(place == extent->physical + i, "a byte lies there", round);
        Check((extent->flags & FIEMAP_EXTENT_UNWRITTEN) == (flags & FIEMAP_EXTENT_UNWRITTEN),
              "judged flags do not spread", round);
        Check((extent->flags & flags) == flags, "and none is lost", round);
      }
      if (extent->flags != 0) flagged[extent->flags].Note(cursor, extent->length);
      if ((extent->logical | extent->physical | extent->length) % kBlock != 0) {
        unaligned.Note(cursor, extent->length);
      }
      cursor += extent->length;
    }
    note_hole(offset + length);
    Check(cursor == offset + length, "the range is covered exactly", round);
    Check(Same(holes, map.holes), "holes are counted", round);
    Check(Same(unaligned, map.unaligned), "extents off the blocks are counted", round);
    Check(flagged.size() == map.flagged.size(), "flags are counted by kind", round);
    for (const auto& [flags, ranges] : map.flagged) {
      Check(Same(flagged[flags], ranges), "and their extents", round);
    }
  }
  dmloop::MapMaker maker(0, kBlock);
  dmloop::ExtentMerger merger(0, 4096, maker);
  Check(!merger.Add({0, uint64_t{1} << 53, 4096, 0}), "no rounded address", 0);
  Check(!merger.Add({0, 0, ~uint64_t{0}, 0}), "no length that wraps", 0);
}

// What is written in few bytes reads as it was, from anywhere in the list.
void CheckLists() {
  for (int round = 0; round < 50; round++) {
    std::vector<dmloop::Extent> extents;
    dmloop::ExtentList list;
    uint64_t logical = Below(2) * Below(1 << 20);
    // Whole sectors, as most are, or any bytes; near each other or anywhere.
    const uint64_t unit = Below(2) == 0 ? 512 : 1;
    for (uint64_t i = Below(20000); i > 0; i--) {
      const uint64_t far = Below(8) == 0 ? uint64_t{1} << 42 : 4096;
      const uint64_t length = (1 + Below(far)) * unit;
      const uint32_t flags = Below(100) == 0 ? static_cast<uint32_t>(g_random()) : 0;
      extents.push_back({logical, Below(far) * unit, length, flags});
      list.Append(extents.back());
      logical += length + (Below(10) == 0 ? Below(far) : 0);
    }
    Check(list.size() == extents.size(), "the list is as long", round);
    for (const size_t from : {size_t{0}, Below(extents.size() + 1), extents.size()}) {
      dmloop::ExtentList::Reader reader(list, from);
      for (size_t i = from; i < extents.size(); i++) {
        const dmloop::Extent* found = reader.Next();
        const dmloop::Extent& wanted = extents[i];
        Check(found != nullptr && found->logical == wanted.logical &&
                  found->physical == wanted.physical && found->length == wanted.length &&
                  found->flags == wanted.flags,
              "an extent reads as it was", round);
      }
      Check(reader.Next() == nullptr, "and then there are no more", round);
    }
  }
}

}  // namespace

int main() {
  CheckTables();
  CheckExtents();
  CheckLists();
  std::puts("native-check: tables, extents and lists agree with their models");
  return 0;
}
