#include "segments.h"

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "safe_integer.h"

namespace dmloop {

namespace {

bool Continues(const Segment& last, const Segment& next) {
  return last.start + last.length == next.start && last.device == next.device &&
         (next.device == kZeroTarget || last.offset + last.length == next.offset);
}

// Finds the rows of one layer for a run of sectors. Files are often stored in few rows of it, so
// the row of the last search is kept, and the next one is tried before a binary search.
class LayerCursor {
 public:
  explicit LayerCursor(const Layer& layer)
      : view_(layer.rows), devices_(&layer.devices), stripes_(layer.stripes) {
    if (view_.size() > 0) row_ = view_[0];
  }

  // The piece of the layer that starts at `sector`, at most `length` long; length 0 when the layer
  // ends before it.
  Segment PieceAt(uint64_t sector, uint64_t length) {
    if (!Holds(sector) && !Find(sector)) return {};
    const uint64_t skip = sector - row_.start;
    const uint64_t take = std::min(length, row_.length - skip);
    if (row_.device >= 0) {
      return {0, take, (*devices_)[static_cast<size_t>(row_.device)], row_.offset + skip};
    }
    if (row_.device == kStripedTarget) return StripedPiece(skip, take);
    return {0, take, kZeroTarget, 0};
  }

 private:
  bool Holds(uint64_t sector) const {
    return sector >= row_.start && sector - row_.start < row_.length;
  }

  bool Take(size_t index, uint64_t sector) {
    if (index >= view_.size()) return false;
    index_ = index;
    row_ = view_[index];
    return Holds(sector);
  }

  bool Find(uint64_t sector) {
    if (Take(index_ + 1, sector)) return true;
    // The last row that starts at or before the sector.
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
    return low > 0 && Take(low - 1, sector);
  }

  // Chunks go to the columns in turn, one row of them after the other (stripe_map_sector in the
  // kernel's drivers/md/dm-stripe.c).
  Segment StripedPiece(uint64_t skip, uint64_t take) const {
    const StripeView stripe(stripes_.subspan(static_cast<size_t>(row_.offset)));
    const uint64_t chunk = skip / stripe.chunk();
    const uint64_t within = skip % stripe.chunk();
    const uint64_t column = chunk % stripe.columns();
    const uint64_t above = chunk / stripe.columns() * stripe.chunk();
    return {0, std::min(take, stripe.chunk() - within),
            (*devices_)[static_cast<size_t>(stripe.device(column))],
            stripe.offset(column) + above + within};
  }

  SegmentView view_;
  const std::vector<int32_t>* devices_;
  std::span<const double> stripes_;
  size_t index_ = 0;
  Segment row_{};
};

// Joins each segment with its neighbour where they are contiguous on one device.
template <typename Sink>
class SegmentMerger {
 public:
  explicit SegmentMerger(const Sink& sink) : sink_(sink) {}

  void Add(const Segment& segment) {
    if (segment.length == 0) return;
    if (last_.length > 0 && Continues(last_, segment)) {
      last_.length += segment.length;
      return;
    }
    Finish();
    last_ = segment;
  }
  void Finish() {
    if (last_.length > 0) sink_(last_);
    last_ = {};
  }

 private:
  const Sink& sink_;
  Segment last_{};
};

// Translates the segments of one part through its levels.
template <typename Sink>
class StackTranslator {
 public:
  StackTranslator(const std::vector<Level>& levels, SegmentMerger<Sink>& merger) : merger_(merger) {
    for (const Level& level : levels) cursors_.emplace_back(level.begin(), level.end());
  }

  // False when there is no layer for it, or it reaches past the end of one.
  bool Translate(const Segment& segment, size_t depth = 0) {
    if (depth == cursors_.size() || segment.device == kZeroTarget) {
      merger_.Add(segment);
      return true;
    }
    const auto device = static_cast<size_t>(segment.device);
    if (device >= cursors_[depth].size()) return false;
    LayerCursor& layer = cursors_[depth][device];
    for (uint64_t done = 0; done < segment.length;) {
      Segment piece = layer.PieceAt(segment.offset + done, segment.length - done);
      if (piece.length == 0) return false;
      piece.start = segment.start + done;
      if (!Translate(piece, depth + 1)) return false;
      done += piece.length;
    }
    return true;
  }

 private:
  std::vector<std::vector<LayerCursor>> cursors_;
  SegmentMerger<Sink>& merger_;
};

// The extents of a part as segments of its filesystem's device, which is device 0.
template <typename Sink>
bool TranslateExtents(const FilePart& part, uint64_t base, StackTranslator<Sink>& translator) {
  if (part.offset % kSectorSize != 0) return false;
  ExtentList::Reader extents(*part.extents);
  uint64_t cursor = 0;
  while (const Extent* extent = extents.Next()) {
    if ((extent->logical | extent->physical | extent->length) % kSectorSize != 0) return false;
    if (extent->logical < part.offset) return false;
    const uint64_t start = (extent->logical - part.offset) / kSectorSize;
    const uint64_t sectors = extent->length / kSectorSize;
    if (start < cursor || start + sectors > part.length) return false;
    const bool zero = (extent->flags & part.zero_flags) != 0;
    const Segment segment = zero
                                ? Segment{base + start, sectors, kZeroTarget, 0}
                                : Segment{base + start, sectors, 0, extent->physical / kSectorSize};
    if (start > cursor) translator.Translate({base + cursor, start - cursor, kZeroTarget, 0});
    if (!translator.Translate(segment)) return false;
    cursor = start + sectors;
  }
  return translator.Translate({base + cursor, part.length - cursor, kZeroTarget, 0});
}

}  // namespace

template <typename Sink>
bool Layout::Walk(const Sink& sink) const {
  SegmentMerger<Sink> merger(sink);
  uint64_t base = 0;
  for (const FilePart& part : parts_) {
    StackTranslator<Sink> translator(part.levels, merger);
    if (!TranslateExtents(part, base, translator)) return false;
    base += part.length;
  }
  merger.Finish();
  return true;
}

Result<std::shared_ptr<const Layout>> Layout::Of(std::vector<FilePart> parts,
                                                 std::shared_ptr<const void> keep) {
  constexpr int32_t kUnseen = -1;
  std::shared_ptr<Layout> layout(new Layout(std::move(parts), std::move(keep)));
  auto& devices = layout->devices_;
  auto& numbers = layout->numbers_;
  const bool whole = layout->Walk([&](const Segment& segment) {
    layout->size_++;
    if (segment.device == kZeroTarget) return;
    const auto device = static_cast<size_t>(segment.device);
    if (device >= numbers.size()) numbers.resize(device + 1, kUnseen);
    if (numbers[device] != kUnseen) return;
    numbers[device] = static_cast<int32_t>(devices.size());
    devices.push_back(segment.device);
  });
  if (!whole) return Failure{EINVAL, "Layout"};
  return std::shared_ptr<const Layout>(std::move(layout));
}

void Layout::ForEach(const SegmentSink& sink) const {
  // Of() has checked everything, and nothing has changed since.
  static_cast<void>(Walk([&](Segment segment) {
    if (segment.device >= 0) segment.device = numbers_[static_cast<size_t>(segment.device)];
    sink(segment);
  }));
}

namespace {

// In the order of the disk.
bool IsBefore(const Segment& a, const Segment& b) {
  return a.device != b.device ? a.device < b.device : a.offset < b.offset;
}

// Sorts ranges of devices, and joins those that overlap or touch, as the blocks do that a file has
// several times.
void MakeDisjoint(std::vector<Segment>& places) {
  std::sort(places.begin(), places.end(), IsBefore);
  size_t count = 0;
  for (const Segment& place : places) {
    Segment* const last = count > 0 ? &places[count - 1] : nullptr;
    if (last == nullptr || last->device != place.device ||
        last->offset + last->length < place.offset) {
      places[count++] = place;
    } else {
      last->length = std::max(last->length, place.offset + place.length - last->offset);
    }
  }
  places.resize(count);
}

}  // namespace

std::optional<uint64_t> FindOverlap(const SegmentSource& segments, const SegmentSource& other,
                                    const std::vector<int32_t>& numbers) {
  std::vector<Segment> places;
  other.ForEach([&](Segment place) {
    // Only linear segments have blocks.
    if (place.device < 0) return;
    place.device = numbers[static_cast<size_t>(place.device)];
    places.push_back(place);
  });
  MakeDisjoint(places);

  std::optional<uint64_t> found;
  segments.ForEach([&](const Segment& segment) {
    if (found || segment.device < 0) return;
    // The last range that starts before this segment ends. Earlier ones end before that one starts.
    Segment end = segment;
    end.offset += segment.length;
    const auto next = std::lower_bound(places.begin(), places.end(), end, IsBefore);
    if (next == places.begin()) return;
    const Segment& last = *std::prev(next);
    if (last.device != segment.device || last.offset + last.length <= segment.offset) return;
    const uint64_t from = std::max(last.offset, segment.offset);
    found = segment.start + (from - segment.offset);
  });
  return found;
}

std::optional<uint64_t> FindDifferentSector(const SegmentSource& segments, const Layer& other) {
  const SegmentView theirs(other.rows);
  size_t index = 0;
  uint64_t end = 0;
  std::optional<uint64_t> found;
  segments.ForEach([&](const Segment& segment) {
    if (found) return;
    end = segment.start + segment.length;
    if (index == theirs.size()) {
      found = segment.start;
      return;
    }
    Segment their = theirs[index++];
    if (their.device >= 0 && static_cast<size_t>(their.device) < other.devices.size()) {
      their.device = other.devices[static_cast<size_t>(their.device)];
    }
    const bool same = their.start == segment.start && their.device == segment.device &&
                      (segment.device == kZeroTarget || their.offset == segment.offset);
    if (!same) {
      found = segment.start;
    } else if (their.length != segment.length) {
      found = segment.start + std::min(their.length, segment.length);
    }
  });
  if (!found && index < theirs.size()) return end;
  return found;
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

// Whether the row at an index is one, and of numbers that can be used.
bool IsRow(std::span<const double> rows, size_t i) {
  return rows.size() - i >= kSegmentColumns && IsSafe(rows[i]) && IsSafe(rows[i + 1]) &&
         IsSafe(rows[i + 3]);
}

// Whether each row has safe numbers, and one of the layer's devices, zeros, a stripe or, with
// `errors`, errors.
bool AreRows(const Layer& layer, bool errors) {
  const auto rows = layer.rows;
  for (size_t i = 0; i < rows.size(); i += kSegmentColumns) {
    if (!IsRow(rows, i)) return false;
    const double device = rows[i + 2];
    if (device == kZeroTarget || IsDevice(device, layer.devices.size())) continue;
    if (errors && device == kErrorTarget) continue;
    if (device != kStripedTarget) return false;
    if (!IsStripe(layer.stripes, rows[i + 3], layer.devices.size())) return false;
  }
  return true;
}

}  // namespace

Result<Nothing> CheckLayer(const Layer& layer) {
  if (AreRows(layer, false)) return Nothing{};
  return Failure{EINVAL, "CheckSegments"};
}

Result<Nothing> CheckLinearSegments(std::span<const double> rows, size_t device_count) {
  for (size_t i = 0; i < rows.size(); i += kSegmentColumns) {
    if (!IsRow(rows, i)) return Failure{EINVAL, "CheckSegments"};
    const double device = rows[i + 2];
    const bool other = device < 0 && device >= kErrorTarget;
    if (!other && !IsDevice(device, device_count)) return Failure{EINVAL, "CheckSegments"};
  }
  return Nothing{};
}

Result<Nothing> CheckSegments(std::span<const double> rows, size_t device_count) {
  // Without any stripes, no striped segment passes.
  if (AreRows({rows, std::vector<int32_t>(device_count), {}}, true)) return Nothing{};
  return Failure{EINVAL, "CheckSegments"};
}

}  // namespace dmloop
