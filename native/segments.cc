#include "segments.h"

#include <algorithm>
#include <iterator>

#include "safe_integer.h"

namespace dmloop {

namespace {

bool Continues(const Segment& last, const Segment& next) {
  return last.start + last.length == next.start && last.device == next.device &&
         (next.device == kZeroTarget || last.offset + last.length == next.offset);
}

// Finds the rows of one layer that a run of sectors falls on. Extents often ascend on the disk too,
// so the row of the last look-up is tried before the binary search.
class LayerCursor {
 public:
  explicit LayerCursor(const Layer& layer)
      : view_(layer.rows), devices_(layer.devices), stripes_(layer.stripes) {}

  // The piece of the layer that starts at `sector`, at most `length` long; length 0 when the layer
  // ends before it.
  Segment PieceAt(uint64_t sector, uint64_t length) {
    if (!Holds(row_, sector) && !Holds(++row_, sector)) row_ = Find(sector);
    if (!Holds(row_, sector)) return {};
    const Segment row = view_[row_];
    const uint64_t skip = sector - row.start;
    const uint64_t take = std::min(length, row.length - skip);
    if (row.device == kZeroTarget) return {0, take, kZeroTarget, 0};
    if (row.device == kStripedTarget) return StripedPiece(row, skip, take);
    return {0, take, devices_[static_cast<size_t>(row.device)], row.offset + skip};
  }

 private:
  bool Holds(size_t index, uint64_t sector) const {
    if (index >= view_.size()) return false;
    const Segment row = view_[index];
    return sector >= row.start && sector - row.start < row.length;
  }

  // Chunks go to the columns in turn, one row of them after the other (stripe_map_sector in the
  // kernel's drivers/md/dm-stripe.c).
  Segment StripedPiece(const Segment& row, uint64_t skip, uint64_t take) const {
    const StripeView stripe(stripes_.subspan(static_cast<size_t>(row.offset)));
    const uint64_t chunk = skip / stripe.chunk();
    const uint64_t within = skip % stripe.chunk();
    const uint64_t column = chunk % stripe.columns();
    const uint64_t above = chunk / stripe.columns() * stripe.chunk();
    return {0, std::min(take, stripe.chunk() - within),
            devices_[static_cast<size_t>(stripe.device(column))],
            stripe.offset(column) + above + within};
  }

  // The last row that starts at or before the sector.
  size_t Find(uint64_t sector) const {
    size_t low = 0;
    size_t high = view_.size();
    while (low < high) {
      const size_t middle = low + (high - low) / 2;
      if (view_[middle].start <= sector) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low == 0 ? 0 : low - 1;
  }

  SegmentView view_;
  const std::vector<int32_t>& devices_;
  std::span<const double> stripes_;
  size_t row_ = 0;
};

// Counts devices in the order of their first appearance, so that equal tables pack equally and a
// device that nothing lies on is not in the list.
class FirstAppearance {
 public:
  int32_t Of(int32_t device) {
    const auto index = static_cast<size_t>(device);
    if (index >= numbers_.size()) numbers_.resize(index + 1, kUnseen);
    if (numbers_[index] == kUnseen) {
      numbers_[index] = static_cast<int32_t>(order_.size());
      order_.push_back(device);
    }
    return numbers_[index];
  }
  std::vector<int32_t> Finish() { return std::move(order_); }

 private:
  static constexpr int32_t kUnseen = -1;
  std::vector<int32_t> numbers_;
  std::vector<int32_t> order_;
};

}  // namespace

void SegmentPacker::Flush() {
  if (!pending_) return;
  rows_.Append(last_.start, last_.length, last_.device, last_.offset);
  pending_ = false;
}

void SegmentPacker::Add(const Segment& segment) {
  if (segment.length == 0) return;
  if (pending_ && Continues(last_, segment)) {
    last_.length += segment.length;
    return;
  }
  Flush();
  last_ = segment;
  pending_ = true;
}

PackedRows SegmentPacker::Finish() {
  Flush();
  return std::move(rows_);
}

Result<PackedRows> SegmentsOfExtents(std::span<const double> extents, uint64_t offset,
                                     uint64_t length, uint32_t zero_flags) {
  const Failure unaligned{EINVAL, "SegmentsOfExtents"};
  if (offset % kSectorSize != 0) return unaligned;
  SegmentPacker packer;
  uint64_t cursor = 0;
  for (size_t i = 0; i + kExtentColumns <= extents.size(); i += kExtentColumns) {
    const auto logical = static_cast<uint64_t>(extents[i]);
    const auto physical = static_cast<uint64_t>(extents[i + 1]);
    const auto bytes = static_cast<uint64_t>(extents[i + 2]);
    const auto flags = static_cast<uint32_t>(extents[i + 3]);
    if ((logical | physical | bytes) % kSectorSize != 0 || logical < offset) return unaligned;
    const uint64_t start = (logical - offset) / kSectorSize;
    const uint64_t sectors = bytes / kSectorSize;
    if (start < cursor || start + sectors > length) return unaligned;
    packer.Add({cursor, start - cursor, kZeroTarget, 0});
    if ((flags & zero_flags) != 0) {
      packer.Add({start, sectors, kZeroTarget, 0});
    } else {
      packer.Add({start, sectors, 0, physical / kSectorSize});
    }
    cursor = start + sectors;
  }
  packer.Add({cursor, length - cursor, kZeroTarget, 0});
  return packer.Finish();
}

Result<Translation> Translate(std::span<const double> segments, const Level& layers) {
  std::vector<LayerCursor> cursors(layers.begin(), layers.end());
  FirstAppearance devices;
  SegmentPacker packer;
  const SegmentView view(segments);
  for (size_t i = 0; i < view.size(); i++) {
    const Segment segment = view[i];
    if (segment.device == kZeroTarget) {
      packer.Add(segment);
      continue;
    }
    LayerCursor& layer = cursors[static_cast<size_t>(segment.device)];
    for (uint64_t done = 0; done < segment.length;) {
      Segment piece = layer.PieceAt(segment.offset + done, segment.length - done);
      if (piece.length == 0) return Failure{EINVAL, "Translate"};
      piece.start = segment.start + done;
      if (piece.device != kZeroTarget) piece.device = devices.Of(piece.device);
      packer.Add(piece);
      done += piece.length;
    }
  }
  return Translation{packer.Finish(), devices.Finish()};
}

Result<Translation> LayOut(std::span<const double> extents, uint64_t offset, uint64_t length,
                           uint32_t zero_flags, const std::vector<Level>& levels) {
  auto segments = SegmentsOfExtents(extents, offset, length, zero_flags);
  if (!segments.ok()) return segments.failure();
  Translation down{std::move(segments.value()), {0}};
  for (const Level& level : levels) {
    // Only the devices that something lies on were counted on: the level is cut down to them.
    Level used;
    for (const int32_t device : down.devices) {
      const auto index = static_cast<size_t>(device);
      if (index >= level.size()) return Failure{EINVAL, "LayOut"};
      used.push_back(level[index]);
    }
    auto next = Translate(down.rows.span(), used);
    if (!next.ok()) return next.failure();
    down = std::move(next.value());
  }
  return down;
}

std::optional<uint64_t> FindOverlap(std::span<const double> segments, const Layer& other) {
  // The other table's places, in the order of the disk. Within one table none overlap.
  std::vector<Segment> places;
  const SegmentView theirs(other.rows);
  for (size_t i = 0; i < theirs.size(); i++) {
    Segment place = theirs[i];
    if (place.device == kZeroTarget) continue;
    place.device = other.devices[static_cast<size_t>(place.device)];
    places.push_back(place);
  }
  const auto before = [](const Segment& a, const Segment& b) {
    return a.device != b.device ? a.device < b.device : a.offset < b.offset;
  };
  std::sort(places.begin(), places.end(), before);

  const SegmentView ours(segments);
  for (size_t i = 0; i < ours.size(); i++) {
    const Segment segment = ours[i];
    if (segment.device == kZeroTarget) continue;
    // The last place that starts before this segment ends: an earlier one ends before it starts.
    Segment end = segment;
    end.offset += segment.length;
    const auto next = std::lower_bound(places.begin(), places.end(), end, before);
    if (next == places.begin()) continue;
    const Segment& last = *std::prev(next);
    if (last.device != segment.device || last.offset + last.length <= segment.offset) continue;
    const uint64_t from = std::max(last.offset, segment.offset);
    return segment.start + (from - segment.offset);
  }
  return std::nullopt;
}

namespace {

bool IsSafe(double number) { return number >= 0 && number <= static_cast<double>(kMaxSafeInteger); }

bool IsDevice(double number, size_t device_count) {
  return number >= 0 && number < static_cast<double>(device_count);
}

bool IsStripe(std::span<const double> stripes, double place, size_t device_count) {
  if (!(place + 2 <= static_cast<double>(stripes.size()))) return false;
  const auto numbers = stripes.subspan(static_cast<size_t>(place));
  const double columns = numbers[1];
  if (!(numbers[0] >= 1 && IsSafe(numbers[0]))) return false;
  if (!(columns >= 1 && 2 + 2 * columns <= static_cast<double>(numbers.size()))) return false;
  for (size_t i = 0; i < static_cast<size_t>(columns); i++) {
    if (!IsDevice(numbers[2 + 2 * i], device_count) || !IsSafe(numbers[3 + 2 * i])) return false;
  }
  return true;
}

}  // namespace

Result<Nothing> CheckLayer(const Layer& layer) {
  const Failure invalid{EINVAL, "CheckSegments"};
  const auto rows = layer.rows;
  if (rows.size() % kSegmentColumns != 0) return invalid;
  for (size_t i = 0; i < rows.size(); i += kSegmentColumns) {
    const double device = rows[i + 2];
    if (!IsSafe(rows[i]) || !IsSafe(rows[i + 1]) || !IsSafe(rows[i + 3])) return invalid;
    if (device == kZeroTarget || IsDevice(device, layer.devices.size())) continue;
    if (device != kStripedTarget) return invalid;
    if (!IsStripe(layer.stripes, rows[i + 3], layer.devices.size())) return invalid;
  }
  return Nothing{};
}

Result<Nothing> CheckSegments(std::span<const double> rows, size_t device_count) {
  // Without any stripes, no striped segment passes.
  return CheckLayer({rows, std::vector<int32_t>(device_count), {}});
}

}  // namespace dmloop
