#include <algorithm>

#include "extent_list.h"
#include "extent_walk.h"
#include "js_values.h"

namespace dmloop {

namespace {

// Of an extent in plain numbers: logical, physical, length, flags.
constexpr size_t kColumns = 4;

std::optional<AddressCall> AddressCallFrom(const Napi::Value& value) {
  if (!value.IsString()) return std::nullopt;
  const std::string name = value.As<Napi::String>().Utf8Value();
  if (name == "FIEMAP") return AddressCall::kFiemap;
  if (name == "FIBMAP") return AddressCall::kFibmap;
  if (name == "CHUNKS") return AddressCall::kChunks;
  return std::nullopt;
}

Napi::Object RangesObject(Napi::Env env, const Ranges& ranges) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("count", static_cast<double>(ranges.count));
  object.Set("offset", static_cast<double>(ranges.offset));
  object.Set("length", static_cast<double>(ranges.length));
  return object;
}

Napi::Object FlaggedObject(Napi::Env env, const std::pair<uint32_t, Ranges>& flagged) {
  const auto& [flags, ranges] = flagged;
  Napi::Object object = RangesObject(env, ranges);
  object.Set("flags", flags);
  return object;
}

Napi::Value ExtentMapValue(Napi::Env env, ExtentMap& map) {
  auto extents = std::make_shared<const ExtentList>(std::move(map.extents));
  Napi::Object object = Napi::Object::New(env);
  object.Set("count", static_cast<double>(extents->size()));
  object.Set("extents", HandleTo(env, extents, extents->memory()));
  object.Set("holes", RangesObject(env, map.holes));
  object.Set("unaligned", RangesObject(env, map.unaligned));
  object.Set("flagged", ArrayOf(env, map.flagged, FlaggedObject));
  return object;
}

Napi::Value WalkExtentsJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  const auto call = AddressCallFrom(info[1]);
  const auto offset = SafeInteger(info[2]);
  const auto length = SafeInteger(info[3]);
  const auto block_size = SafeInteger(info[4]);
  if (!fd || !call || !offset || !length || !block_size || *block_size == 0) {
    return Reject(info.Env(), "walkExtents(fd, call, offset, length, blockSize)");
  }
  return PromiseWorker<ExtentMap>::Run(
      info.Env(),
      [fd = *fd, call = *call, offset = *offset, length = *length, block_size = *block_size] {
        return WalkExtents(fd.get(), call, offset, length, block_size);
      },
      ExtentMapValue);
}

// The first byte that has moved, or -1.
Napi::Value FindMovedByteJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  const auto call = AddressCallFrom(info[1]);
  const auto offset = SafeInteger(info[2]);
  const auto length = SafeInteger(info[3]);
  auto extents = HandleFrom<ExtentList>(info[4]);
  if (!fd || !call || !offset || !length || !extents) {
    return Reject(info.Env(), "findMovedByte(fd, call, offset, length, extents)");
  }
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [fd = *fd, call = *call, offset = *offset, length = *length, extents] {
        return FindMovedByte(fd.get(), call, offset, length, *extents);
      },
      NumberOrMinusOne);
}

// A list of extents that did not come from a walk: four numbers a row.
Napi::Value PackExtentsJs(const Napi::CallbackInfo& info) {
  auto rows = PackedNumbers::From(info[0]);
  if (!rows) return Reject(info.Env(), "packExtents(rows)");
  auto extents = std::make_shared<ExtentList>();
  auto row = rows->rows();
  for (; row.size() >= kColumns; row = row.subspan(kColumns)) {
    extents->Append({static_cast<uint64_t>(row[0]), static_cast<uint64_t>(row[1]),
                     static_cast<uint64_t>(row[2]), static_cast<uint32_t>(row[3])});
  }
  return HandleTo<ExtentList>(info.Env(), extents, extents->memory());
}

// Some extents as plain numbers, four a row; see lib/plan/extents.ts.
Napi::Value ExtentRowsJs(const Napi::CallbackInfo& info) {
  auto extents = HandleFrom<ExtentList>(info[0]);
  const auto first = SafeInteger(info[1]);
  const auto count = SafeInteger(info[2]);
  if (!extents || !first || !count) return Reject(info.Env(), "extentRows(extents, first, count)");
  const size_t from = std::min<size_t>(*first, extents->size());
  const size_t rows = std::min<size_t>(*count, extents->size() - from);
  auto array = Napi::Float64Array::New(info.Env(), rows * kColumns);
  ExtentList::Reader reader(*extents, from);
  double* row = array.Data();
  for (size_t i = 0; i < rows; i++, row += kColumns) {
    const Extent extent = *reader.Next();
    row[0] = static_cast<double>(extent.logical);
    row[1] = static_cast<double>(extent.physical);
    row[2] = static_cast<double>(extent.length);
    row[3] = static_cast<double>(extent.flags);
  }
  return array;
}

}  // namespace

void AddExtents(Napi::Object& exports) {
  Add(exports, "walkExtents", WalkExtentsJs);
  Add(exports, "findMovedByte", FindMovedByteJs);
  Add(exports, "packExtents", PackExtentsJs);
  Add(exports, "extentRows", ExtentRowsJs);
}

}  // namespace dmloop
