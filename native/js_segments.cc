#include "js_segments.h"

#include "extent_list.h"

namespace dmloop {

namespace {

struct PackedLayer {
  std::shared_ptr<const PackedNumbers> rows;
  std::vector<int32_t> devices;
  // None where no segment is striped.
  std::shared_ptr<const PackedNumbers> stripes;

  Layer view() const {
    return {rows->rows(), devices, stripes ? stripes->rows() : std::span<const double>()};
  }
};
using PackedLevel = std::vector<PackedLayer>;

std::optional<std::vector<int32_t>> DeviceNumbersFrom(const Napi::Value& value) {
  if (!value.IsArray()) return std::nullopt;
  const auto list = value.As<Napi::Array>();
  std::vector<int32_t> numbers;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const auto number = SafeInteger(list.Get(i));
    if (!number) return std::nullopt;
    numbers.push_back(static_cast<int32_t>(*number));
  }
  return numbers;
}

// { rows, devices: number[], stripes? }: each device number of the rows has one in `devices`.
std::optional<PackedLayer> LayerFrom(const Napi::Value& value) {
  if (!value.IsObject()) return std::nullopt;
  const auto object = value.As<Napi::Object>();
  auto rows = PackedNumbers::From(object.Get("rows"));
  auto devices = DeviceNumbersFrom(object.Get("devices"));
  if (!rows || !devices) return std::nullopt;
  return PackedLayer{std::move(rows), std::move(*devices),
                     PackedNumbers::From(object.Get("stripes"))};
}

std::optional<std::vector<PackedLevel>> LevelsFrom(const Napi::Value& value) {
  if (!value.IsArray()) return std::nullopt;
  const auto list = value.As<Napi::Array>();
  std::vector<PackedLevel> levels;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::Value item = list.Get(i);
    if (!item.IsArray()) return std::nullopt;
    const auto layers = item.As<Napi::Array>();
    PackedLevel level;
    for (uint32_t j = 0; j < layers.Length(); j++) {
      auto layer = LayerFrom(layers.Get(j));
      if (!layer) return std::nullopt;
      level.push_back(std::move(*layer));
    }
    levels.push_back(std::move(level));
  }
  return levels;
}

// The memory of the layers, part by part.
using PackedParts = std::vector<std::vector<PackedLevel>>;

// { extents, offset, sectors, zeroFlags, levels }; the part's layers are left to be filled in.
std::optional<FilePart> PartFrom(const Napi::Value& value, PackedParts& packed) {
  if (!value.IsObject()) return std::nullopt;
  const auto object = value.As<Napi::Object>();
  auto extents = HandleFrom<ExtentList>(object.Get("extents"));
  const auto offset = SafeInteger(object.Get("offset"));
  const auto sectors = SafeInteger(object.Get("sectors"));
  const auto zero_flags = SafeInteger(object.Get("zeroFlags"));
  auto levels = LevelsFrom(object.Get("levels"));
  if (!extents || !offset || !sectors || !zero_flags || !levels) return std::nullopt;
  packed.push_back(std::move(*levels));
  return FilePart{std::move(extents), *offset, *sectors, static_cast<uint32_t>(*zero_flags), {}};
}

using BuiltSegments = Result<std::shared_ptr<const Layout>>;

BuiltSegments BuildSegments(std::vector<FilePart> parts,
                            std::shared_ptr<const PackedParts> packed) {
  for (size_t i = 0; i < parts.size(); i++) {
    for (const PackedLevel& layers : (*packed)[i]) {
      Level& level = parts[i].levels.emplace_back();
      for (const PackedLayer& layer : layers) {
        level.push_back(layer.view());
        auto checked = CheckLayer(level.back());
        if (!checked.ok()) return checked.failure();
      }
    }
  }
  return Layout::Of(std::move(parts), std::move(packed));
}

Napi::Value BuildSegmentsJs(const Napi::CallbackInfo& info) {
  const char* usage = "buildSegments([{ extents, offset, sectors, zeroFlags, levels }])";
  if (!info[0].IsArray()) return Reject(info.Env(), usage);
  const auto list = info[0].As<Napi::Array>();
  auto packed = std::make_shared<PackedParts>();
  std::vector<FilePart> parts;
  for (uint32_t i = 0; i < list.Length(); i++) {
    auto part = PartFrom(list.Get(i), *packed);
    if (!part) return Reject(info.Env(), usage);
    parts.push_back(std::move(*part));
  }
  return PromiseWorker<std::shared_ptr<const Layout>>::Run(
      info.Env(),
      [parts = std::move(parts), packed = std::move(packed)] {
        return BuildSegments(parts, packed);
      },
      [](Napi::Env env, std::shared_ptr<const Layout>& layout) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("count", static_cast<double>(layout->size()));
        object.Set("segments", HandleTo(env, layout, 0));
        object.Set("devices", ArrayOf(env, layout->devices(),
                                      [](Napi::Env, int32_t device) { return device; }));
        return object;
      });
}

Napi::Value SegmentRowsJs(const Napi::CallbackInfo& info) {
  auto layout = HandleFrom<Layout>(info[0]);
  if (!layout) return Reject(info.Env(), "segmentRows(segments)");
  auto array = Napi::Float64Array::New(info.Env(), layout->size() * kSegmentColumns);
  double* row = array.Data();
  layout->ForEach([&](const Segment& segment) {
    *row++ = static_cast<double>(segment.start);
    *row++ = static_cast<double>(segment.length);
    *row++ = static_cast<double>(segment.device);
    *row++ = static_cast<double>(segment.offset);
  });
  return array;
}

// The first sector whose block another table has as well; `numbers` says which device of the first
// each of the other's is.
Napi::Value FindOverlapJs(const Napi::CallbackInfo& info) {
  auto segments = GivenSegments::From(info[0]);
  auto other = GivenSegments::From(info[1]);
  auto numbers = DeviceNumbersFrom(info[2]);
  if (!segments || !other || !numbers) {
    return Reject(info.Env(), "findOverlap(segments, other, numbers)");
  }
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [segments, other, numbers = std::move(*numbers)]() -> Result<std::optional<uint64_t>> {
        auto checked = other->CheckLinear(numbers.size());
        if (!checked.ok()) return checked.failure();
        return FindOverlap(segments->source(), other->source(), numbers);
      },
      NumberOrMinusOne);
}

// Unlike an overlap, it makes sense with any targets: what is neither linear nor zero is different.
Napi::Value FindDifferentSectorJs(const Napi::CallbackInfo& info) {
  auto segments = GivenSegments::From(info[0]);
  auto other = LayerFrom(info[1]);
  if (!segments || !other) {
    return Reject(info.Env(), "findDifferentSector(segments, { rows, devices })");
  }
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [segments, other = std::move(*other)]() -> Result<std::optional<uint64_t>> {
        return FindDifferentSector(segments->source(), other.view());
      },
      NumberOrMinusOne);
}

}  // namespace

void AddSegments(Napi::Object& exports) {
  Add(exports, "buildSegments", BuildSegmentsJs);
  Add(exports, "segmentRows", SegmentRowsJs);
  Add(exports, "findOverlap", FindOverlapJs);
  Add(exports, "findDifferentSector", FindDifferentSectorJs);
}

}  // namespace dmloop
