#pragma once

#include <memory>

#include "js_values.h"
#include "segments.h"

namespace dmloop {

// Segments that JavaScript has packed or that a layout works out. Packed ones are checked before
// they are used, off the event loop.
class GivenSegments {
 public:
  static std::shared_ptr<const GivenSegments> From(const Napi::Value& value) {
    auto given = std::make_shared<GivenSegments>();
    given->packed_ = PackedNumbers::From(value);
    given->layout_ = HandleFrom<Layout>(value);
    given->source_ = given->layout_;
    if (given->packed_) {
      given->source_ = std::make_shared<const PackedSegments>(given->packed_->rows());
    }
    return given->source_ ? given : nullptr;
  }
  Result<Nothing> Check(size_t device_count) const {
    if (packed_) return CheckSegments(packed_->rows(), device_count);
    if (layout_->devices().size() != device_count) return Failure{EINVAL, "CheckSegments"};
    return Nothing{};
  }
  // Only the linear ones, where the others do not count.
  Result<Nothing> CheckLinear(size_t device_count) const {
    return packed_ ? CheckLinearSegments(packed_->rows(), device_count) : Check(device_count);
  }
  const SegmentSource& source() const { return *source_; }

 private:
  std::shared_ptr<const PackedNumbers> packed_;
  std::shared_ptr<const Layout> layout_;
  std::shared_ptr<const SegmentSource> source_;
};

}  // namespace dmloop
