#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "extent_walk.h"
#include "packed_rows.h"
#include "result.h"

namespace dmloop {

// A run of a table, in 512-byte sectors. `device` indexes a list of devices that the caller holds;
// kZeroTarget stands for the zero target, which has none.
struct Segment {
  uint64_t start;
  uint64_t length;
  int32_t device;
  uint64_t offset;
};

inline constexpr int32_t kZeroTarget = -1;
// In the table of a device beneath: a striped target, whose `offset` is the place of its parameters
// among the table's stripes.
inline constexpr int32_t kStripedTarget = -3;
inline constexpr uint64_t kSectorSize = 512;
// Doubles a packed segment takes: start, length, device, offset.
inline constexpr size_t kSegmentColumns = 4;

// Reads packed segments where they lie.
class SegmentView {
 public:
  explicit SegmentView(std::span<const double> rows) : rows_(rows) {}
  size_t size() const { return rows_.size() / kSegmentColumns; }
  Segment operator[](size_t index) const {
    const double* row = rows_.data() + index * kSegmentColumns;
    return {static_cast<uint64_t>(row[0]), static_cast<uint64_t>(row[1]),
            static_cast<int32_t>(row[2]), static_cast<uint64_t>(row[3])};
  }

 private:
  std::span<const double> rows_;
};

// Packs segments, joining each with its neighbour where they are contiguous on one device.
class SegmentPacker {
 public:
  void Add(const Segment& segment);
  PackedRows Finish();

 private:
  void Flush();

  bool pending_ = false;
  Segment last_{};
  PackedRows rows_;
};

// The table of one device under translation: packed linear, zero and striped segments, and for each
// of its device numbers the number in the result.
struct Layer {
  std::span<const double> rows;
  std::vector<int32_t> devices;
  // For each striped segment: the size of a chunk in sectors, how many columns there are, and for
  // each of them device number and offset.
  std::span<const double> stripes;
};

// One striped segment's parameters, read where they lie.
class StripeView {
 public:
  explicit StripeView(std::span<const double> numbers) : numbers_(numbers) {}
  uint64_t chunk() const { return static_cast<uint64_t>(numbers_[0]); }
  uint64_t columns() const { return static_cast<uint64_t>(numbers_[1]); }
  int32_t device(uint64_t column) const { return static_cast<int32_t>(numbers_[2 + 2 * column]); }
  uint64_t offset(uint64_t column) const { return static_cast<uint64_t>(numbers_[3 + 2 * column]); }

 private:
  std::span<const double> numbers_;
};

struct Translation {
  PackedRows rows;
  // The devices the rows lie on, in the order of their first appearance: the rows count by it.
  std::vector<int32_t> devices;
};

// A filesystem's device taken down one step: a layer for each device of the step above.
using Level = std::vector<Layer>;

// Extents (packed, bytes, whole sectors) as segments of a device of `length` sectors whose first
// byte is byte `offset` of the file. What no extent covers and what carries one of `zero_flags`
// becomes the zero target; the rest lies on device 0. EINVAL when an address is not whole sectors.
Result<PackedRows> SegmentsOfExtents(std::span<const double> extents, uint64_t offset,
                                     uint64_t length, uint32_t zero_flags);

// Each segment seen through the layer of its device: split where the layer's table has a seam,
// merged again where the pieces meet. EINVAL when a segment reaches past its layer.
Result<Translation> Translate(std::span<const double> segments, const Level& layers);

// A whole file laid out on the devices at the bottom: its extents as segments, taken down every
// level. The first level has one layer, that of the filesystem's device.
Result<Translation> LayOut(std::span<const double> extents, uint64_t offset, uint64_t length,
                           uint32_t zero_flags, const std::vector<Level>& levels);

// The first sector of a device that lies where another table's segments lie too; nothing when the
// two share no block. `other` counts its devices as `segments` does.
std::optional<uint64_t> FindOverlap(std::span<const double> segments, const Layer& other);

// EINVAL unless the layer's segments lie on devices that exist, stripes included.
Result<Nothing> CheckLayer(const Layer& layer);

// EINVAL unless the rows are packed linear and zero segments on devices that exist.
Result<Nothing> CheckSegments(std::span<const double> rows, size_t device_count);

}  // namespace dmloop
