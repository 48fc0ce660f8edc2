#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "extent_list.h"
#include "result.h"

namespace dmloop {

// A run of a table, in 512-byte sectors. `device` is an index into the caller's list of
// devices, or kZeroTarget for the zero target, which has none.
struct Segment {
  uint64_t start;
  uint64_t length;
  int32_t device;
  uint64_t offset;
};

inline constexpr int32_t kZeroTarget = -1;
// In the table of an underlying device: a striped target, whose `offset` is the position of its
// parameters in the table's stripes.
inline constexpr int32_t kStripedTarget = -3;
// In a table that is loaded: the error target.
inline constexpr int32_t kErrorTarget = -4;
inline constexpr uint64_t kSectorSize = 512;
// Doubles in a packed segment: start, length, device, offset.
inline constexpr size_t kSegmentColumns = 4;

// Reads packed segments in place.
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

// Takes segments one by one, in the order of the device.
using SegmentSink = std::function<void(const Segment&)>;

// Segments in the order of the device. The kernel's table is stored; that of a file is computed
// each time, which takes no memory.
class SegmentSource {
 public:
  virtual ~SegmentSource() = default;
  virtual size_t size() const = 0;
  virtual void ForEach(const SegmentSink& sink) const = 0;
};

// Packed segments in the caller's memory.
class PackedSegments : public SegmentSource {
 public:
  explicit PackedSegments(std::span<const double> rows) : view_(rows) {}
  size_t size() const override { return view_.size(); }
  void ForEach(const SegmentSink& sink) const override {
    for (size_t i = 0; i < view_.size(); i++) sink(view_[i]);
  }

 private:
  SegmentView view_;
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

// One striped segment's parameters, read in place.
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

// One level of a stack: a layer for each device of the level above.
using Level = std::vector<Layer>;

// A part of a file, and its underlying devices.
struct FilePart {
  std::shared_ptr<const ExtentList> extents;
  // The byte of the file that the part starts with, and its length in sectors.
  uint64_t offset;
  uint64_t length;
  // Extents with one of these flags become the zero target, as do holes.
  uint32_t zero_flags;
  // The first level has one layer, that of the filesystem's device; all parts have the same
  // numbers for the devices at the bottom.
  std::vector<Level> levels;
};

// The segments of files, end to end, on the devices at the bottom: each extent is translated level
// by level through the layer of its device, split where a layer is discontiguous, and merged where
// neighbours are contiguous.
class Layout : public SegmentSource {
 public:
  // `keep` owns the memory of the layers. EINVAL when an address is not a whole sector, and when a
  // segment reaches past its layer.
  static Result<std::shared_ptr<const Layout>> Of(std::vector<FilePart> parts,
                                                  std::shared_ptr<const void> keep);

  size_t size() const override { return size_; }
  void ForEach(const SegmentSink& sink) const override;
  // The devices at the bottom that are in use, in the order of their first appearance. Segments
  // have indexes into it.
  const std::vector<int32_t>& devices() const { return devices_; }

 private:
  Layout(std::vector<FilePart> parts, std::shared_ptr<const void> keep)
      : parts_(std::move(parts)), keep_(std::move(keep)) {}
  // False where a part is inconsistent.
  template <typename Sink>
  bool Walk(const Sink& sink) const;

  std::vector<FilePart> parts_;
  std::shared_ptr<const void> keep_;
  size_t size_ = 0;
  std::vector<int32_t> devices_;
  // The index into `devices_` of each device at the bottom.
  std::vector<int32_t> numbers_;
};

// The first sector of a device whose block another table has as well; nothing when the two share
// none. For each device of the other, `numbers` says which of `segments` it is. Takes memory for
// each segment of the other, whose devices must all have a number.
std::optional<uint64_t> FindOverlap(const SegmentSource& segments, const SegmentSource& other,
                                    const std::vector<int32_t>& numbers);

// The first sector at which two tables differ; nothing when they are the same. For each device
// of the other, `other.devices` says which of `segments` it is.
std::optional<uint64_t> FindDifferentSector(const SegmentSource& segments, const Layer& other);

// EINVAL unless the layer's segments refer to existing devices, stripes included.
Result<Nothing> CheckLayer(const Layer& layer);

// EINVAL unless the linear segments among the rows are on existing devices.
Result<Nothing> CheckLinearSegments(std::span<const double> rows, size_t device_count);

// EINVAL unless the rows are packed linear and zero segments on existing devices.
Result<Nothing> CheckSegments(std::span<const double> rows, size_t device_count);

}  // namespace dmloop
