#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "packed_rows.h"
#include "result.h"

namespace dmloop {

// One extent, in bytes; flags are FIEMAP_EXTENT_* of linux/fiemap.h.
struct Extent {
  uint64_t logical;
  uint64_t physical;
  uint64_t length;
  uint32_t flags;
};

// Where the bytes of a file range lie. Flat rows of doubles, because JavaScript gets them without a
// copy: four a row (logical, physical, length, flags) and two a hole (offset, length), in bytes.
struct ExtentMap {
  PackedRows rows;
  PackedRows holes;
  // All flags that any extent carries, or-ed: zero tells the judge that no row needs a look.
  uint32_t flags = 0;
  // The bitwise or of every logical, physical and length: its lowest set bit is the alignment.
  uint64_t bits = 0;
};

// Collects extents in the order of the file, clips them to the range, merges neighbours and notes
// the gaps between them, which nothing in FIEMAP flags.
class ExtentCollector {
 public:
  ExtentCollector(uint64_t offset, uint64_t length) : end_(offset + length), cursor_(offset) {}

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

  uint64_t end_;
  uint64_t cursor_;
  bool pending_ = false;
  Extent last_{};
  ExtentMap map_;
};

// Doubles a packed extent takes: logical, physical, length, flags.
inline constexpr size_t kExtentColumns = 4;

// How many extents one FS_IOC_FIEMAP asks for: the fastest size measured (FACTS section 3).
inline constexpr uint32_t kExtentBatch = 4096;

// Which ioctl a filesystem tells its addresses with: FS_IOC_FIEMAP, extent by extent, or FIBMAP,
// block by block, where there is no other (vfat). FIBMAP needs CAP_SYS_RAWIO.
enum class AddressCall { kFiemap, kFibmap };

// Reads the extents of bytes [offset, offset + length) of an open file. It does not ask for
// FIEMAP_FLAG_SYNC: looking must change nothing.
Result<ExtentMap> WalkExtents(int fd, AddressCall call, uint64_t offset, uint64_t length);

// Reads the extents again and compares them with packed rows of an earlier walk: the first byte of
// the file that lies elsewhere or whose extent has other flags, or nothing.
Result<std::optional<uint64_t>> FindMovedByte(int fd, AddressCall call, uint64_t offset,
                                              uint64_t length, std::span<const double> rows);

}  // namespace dmloop
