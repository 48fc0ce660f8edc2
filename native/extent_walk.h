#pragma once

#include <cstdint>
#include <vector>

#include "result.h"

namespace dmloop {

// One extent, in bytes; flags are FIEMAP_EXTENT_* of linux/fiemap.h.
struct Extent {
  uint64_t logical;
  uint64_t physical;
  uint64_t length;
  uint32_t flags;
};

struct Hole {
  uint64_t offset;
  uint64_t length;
};

// Where the bytes of a file range lie. Flat rows of doubles, because JavaScript gets them without a
// copy: four a row (logical, physical, length, flags) and two a hole (offset, length), in bytes.
struct ExtentMap {
  std::vector<double> rows;
  std::vector<double> holes;
  // All flags that any extent carries, or-ed: zero tells the judge that no row needs a look.
  uint32_t flags = 0;
  // The bitwise or of every logical, physical and length: its lowest set bit is the alignment.
  uint64_t bits = 0;
};

// Collects extents in the order of the file, clips them to the range, merges neighbours and notes
// the gaps between them, which nothing in FIEMAP flags.
class ExtentCollector {
 public:
  ExtentCollector(uint64_t offset, uint64_t length)
      : begin_(offset), end_(offset + length), cursor_(offset) {}

  // False when an address does not fit a JavaScript safe integer.
  bool Add(Extent extent);
  // Notes the hole between the last extent and the end of the range.
  ExtentMap Finish();

  // The first byte that no extent has covered yet.
  uint64_t cursor() const { return cursor_; }

 private:
  void Append(const Extent& extent);
  void NoteHole(uint64_t until);
  void Flush();

  uint64_t begin_;
  uint64_t end_;
  uint64_t cursor_;
  bool pending_ = false;
  Extent last_{};
  ExtentMap map_;
};

// How many extents one FS_IOC_FIEMAP asks for: the fastest size measured (FACTS section 3).
inline constexpr uint32_t kExtentBatch = 4096;

// Reads the extents of bytes [offset, offset + length) of an open file with FS_IOC_FIEMAP. It does
// not ask for FIEMAP_FLAG_SYNC: looking must change nothing.
Result<ExtentMap> WalkExtents(int fd, uint64_t offset, uint64_t length);

}  // namespace dmloop
