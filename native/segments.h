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

// Takes segments one by one, in the order of the device.
using SegmentSink = std::function<void(const Segment&)>;

// Segments in the order of the device. How they come about is the source's affair: a table that the
// kernel has given is read, that of a file is worked out anew each time, which takes no memory.
class SegmentSource {
 public:
  virtual ~SegmentSource() = default;
  virtual size_t size() const = 0;
  virtual void ForEach(const SegmentSink& sink) const = 0;
};

// Packed segments, which the caller keeps.
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

// A filesystem's device taken down one step: a layer for each device of the step above.
using Level = std::vector<Layer>;

// A part of a file, and the devices beneath it.
struct FilePart {
  std::shared_ptr<const ExtentList> extents;
  // The byte of the file that the part starts with, and its length in sectors.
  uint64_t offset;
  uint64_t length;
  // What carries one of these flags becomes the zero target, as does what no extent covers.
  uint32_t zero_flags;
  // The first level has one layer, that of the filesystem's device; all parts number the devices at
  // the bottom alike.
  std::vector<Level> levels;
};

// Files laid end to end on the devices at the bottom: extents as segments, each seen through the
// layer of its device, level by level, split where a layer has a seam, and merged where the pieces
// meet.
class Layout : public SegmentSource {
 public:
  // `keep` holds what the layers' numbers lie in. EINVAL when an address is not whole sectors, and
  // when a segment reaches past its layer.
  static Result<std::shared_ptr<const Layout>> Of(std::vector<FilePart> parts,
                                                  std::shared_ptr<const void> keep);

  size_t size() const override { return size_; }
  void ForEach(const SegmentSink& sink) const override;
  // The devices at the bottom that something lies on, in the order of their first appearance: the
  // segments count by it.
  const std::vector<int32_t>& devices() const { return devices_; }

 private:
  Layout(std::vector<FilePart> parts, std::shared_ptr<const void> keep)
      : parts_(std::move(parts)), keep_(std::move(keep)) {}
  // False where something does not add up.
  template <typename Sink>
  bool Walk(const Sink& sink) const;

  std::vector<FilePart> parts_;
  std::shared_ptr<const void> keep_;
  size_t size_ = 0;
  std::vector<int32_t> devices_;
  // For each device at the bottom its place among `devices_`.
  std::vector<int32_t> numbers_;
};

// The first sector of a device that lies where another table's segments lie too; nothing when the
// two share no block. `other` counts its devices as `segments` does.
std::optional<uint64_t> FindOverlap(const SegmentSource& segments, const Layer& other);

// The first sector from which two tables are not the same; nothing when they are. For each device
// of the other, `other.devices` says which of `segments` it is.
std::optional<uint64_t> FindDifferentSector(const SegmentSource& segments, const Layer& other);

// EINVAL unless the layer's segments lie on devices that exist, stripes included.
Result<Nothing> CheckLayer(const Layer& layer);

// EINVAL unless the rows are packed linear and zero segments on devices that exist.
Result<Nothing> CheckSegments(std::span<const double> rows, size_t device_count);

}  // namespace dmloop
