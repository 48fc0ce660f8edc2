#include <napi.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compare.h"
#include "device_mapper.h"
#include "extent_list.h"
#include "extent_walk.h"
#include "file_facts.h"
#include "files.h"
#include "guard.h"
#include "look.h"
#include "loop.h"
#include "packed_rows.h"
#include "promise_worker.h"
#include "record.h"
#include "safe_integer.h"
#include "segments.h"
#include "small_files.h"
#include "udev_cookie.h"

// The JavaScript face of the native half: arguments in, facts out. lib/native.ts holds the types
// and is the only caller; what it passes has been judged already, so a wrong argument here is a bug
// of ours and throws a plain TypeError.
namespace dmloop {

namespace {

Napi::Value Reject(Napi::Env env, const char* message) {
  Napi::TypeError::New(env, message).ThrowAsJavaScriptException();
  return env.Undefined();
}

std::optional<uint64_t> SafeInteger(const Napi::Value& value) {
  if (!value.IsNumber()) return std::nullopt;
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= 0 && number <= static_cast<double>(kMaxSafeInteger)) ||
      std::floor(number) != number) {
    return std::nullopt;
  }
  return static_cast<uint64_t>(number);
}

// Numbers that C++ made or TypeScript passes on, held where they lie: the reference keeps the
// memory while a worker thread reads it. Nobody writes to packed tables after they are made.
class PackedNumbers {
 public:
  static std::shared_ptr<PackedNumbers> From(const Napi::Value& value) {
    if (!value.IsTypedArray() ||
        value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
      return nullptr;
    }
    return std::shared_ptr<PackedNumbers>(new PackedNumbers(value.As<Napi::Float64Array>()));
  }
  std::span<const double> rows() const { return rows_; }

 private:
  explicit PackedNumbers(Napi::Float64Array array)
      : rows_(array.Data(), array.ElementLength()),
        reference_(Napi::Persistent(array.As<Napi::Object>())) {}

  std::span<const double> rows_;
  // Dropped on the event loop, where the worker that holds it is deleted.
  Napi::ObjectReference reference_;
};

// What C++ keeps and JavaScript only holds: for each type its own kind, so that one is not taken
// for another.
template <typename T>
constexpr char kKindOf = 0;

struct Handle {
  const char* kind;
  std::shared_ptr<const void> value;
};

template <typename T>
Napi::Value HandleTo(Napi::Env env, std::shared_ptr<const T> value, size_t memory) {
  // Else a garbage collector that sees only the handle would be in no hurry.
  Napi::MemoryManagement::AdjustExternalMemory(env, static_cast<int64_t>(memory));
  const auto drop = [memory](Napi::Env env, Handle* handle) {
    Napi::MemoryManagement::AdjustExternalMemory(env, -static_cast<int64_t>(memory));
    std::unique_ptr<Handle>{handle}.reset();
  };
  auto handle = std::make_unique<Handle>(Handle{&kKindOf<T>, std::move(value)});
  return Napi::External<Handle>::New(env, handle.release(), drop);
}

template <typename T>
std::shared_ptr<const T> HandleFrom(const Napi::Value& value) {
  if (!value.IsExternal()) return nullptr;
  const Handle* handle = value.As<Napi::External<Handle>>().Data();
  if (handle->kind != &kKindOf<T>) return nullptr;
  return std::static_pointer_cast<const T>(handle->value);
}

Napi::Value PackedArray(Napi::Env env, PackedRows& rows) {
  const size_t count = rows.size();
  if (count == 0) return Napi::Float64Array::New(env, 0);
  auto buffer = Napi::ArrayBuffer::New(env, rows.Release(), count * sizeof(double),
                                       [](Napi::Env, void* data) { std::free(data); });
  return Napi::Float64Array::New(env, count, buffer, 0);
}

std::optional<std::vector<std::string>> StringsFrom(const Napi::Value& value) {
  if (!value.IsArray()) return std::nullopt;
  const auto array = value.As<Napi::Array>();
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array.Get(i);
    if (!item.IsString()) return std::nullopt;
    strings.push_back(item.As<Napi::String>().Utf8Value());
  }
  return strings;
}

Napi::Value Strings(Napi::Env env, const std::vector<std::string>& strings) {
  Napi::Array array = Napi::Array::New(env, strings.size());
  for (uint32_t i = 0; i < strings.size(); i++) array.Set(i, strings[i]);
  return array;
}

Napi::Value Undefined(Napi::Env env, Nothing&) { return env.Undefined(); }

Napi::Value NumberOrMinusOne(Napi::Env env, std::optional<uint64_t>& position) {
  return Napi::Number::New(env, position ? static_cast<double>(*position) : -1);
}

Napi::Object DeviceObject(Napi::Env env, const dm::Device& device) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", device.name);
  object.Set("uuid", device.uuid);
  object.Set("major", device.major);
  object.Set("minor", device.minor);
  object.Set("openCount", device.open_count);
  object.Set("targetCount", device.target_count);
  object.Set("eventNumber", device.event_number);
  object.Set("flags", device.flags);
  return object;
}

Napi::Value DeviceValue(Napi::Env env, dm::Device& device) { return DeviceObject(env, device); }

// { name } or { uuid } or { major, minor }.
std::optional<dm::Target> TargetFrom(const Napi::Value& value) {
  if (!value.IsObject()) return std::nullopt;
  const auto object = value.As<Napi::Object>();
  const Napi::Value name = object.Get("name");
  const Napi::Value uuid = object.Get("uuid");
  if (name.IsString()) return dm::Target{name.As<Napi::String>().Utf8Value(), {}, 0};
  if (uuid.IsString()) return dm::Target{{}, uuid.As<Napi::String>().Utf8Value(), 0};
  const auto major = SafeInteger(object.Get("major"));
  const auto minor = SafeInteger(object.Get("minor"));
  if (!major || !minor) return std::nullopt;
  // The kernel's huge_encode_dev: 12 bits of major between the low 8 and the high 12 of minor.
  return dm::Target{{}, {}, (*minor & 0xff) | *major << 8 | (*minor & ~uint64_t{0xff}) << 12};
}

std::optional<AddressCall> AddressCallFrom(const Napi::Value& value) {
  if (!value.IsString()) return std::nullopt;
  const std::string name = value.As<Napi::String>().Utf8Value();
  if (name == "FIEMAP") return AddressCall::kFiemap;
  if (name == "FIBMAP") return AddressCall::kFibmap;
  return std::nullopt;
}

// --- files ------------------------------------------------------------------------------------

Napi::Object RangesObject(Napi::Env env, const Ranges& ranges) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("count", static_cast<double>(ranges.count));
  object.Set("offset", static_cast<double>(ranges.offset));
  object.Set("length", static_cast<double>(ranges.length));
  return object;
}

Napi::Value ExtentMapValue(Napi::Env env, ExtentMap& map) {
  Napi::Array flagged = Napi::Array::New(env, map.flagged.size());
  for (uint32_t i = 0; i < map.flagged.size(); i++) {
    const auto& [flags, ranges] = map.flagged[i];
    Napi::Object object = RangesObject(env, ranges);
    object.Set("flags", flags);
    flagged.Set(i, object);
  }
  auto extents = std::make_shared<const ExtentList>(std::move(map.extents));
  Napi::Object object = Napi::Object::New(env);
  object.Set("count", static_cast<double>(extents->size()));
  object.Set("extents", HandleTo(env, extents, extents->memory()));
  object.Set("holes", RangesObject(env, map.holes));
  object.Set("unaligned", RangesObject(env, map.unaligned));
  object.Set("flagged", flagged);
  return object;
}

Napi::Value WalkExtentsJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  const auto call = AddressCallFrom(info[1]);
  const auto offset = SafeInteger(info[2]);
  const auto length = SafeInteger(info[3]);
  const auto block_size = SafeInteger(info[4]);
  if (!fd || !call || !offset || !length || !block_size || *block_size == 0) {
    return Reject(info.Env(), "walkExtents(fd, call, offset, length, blockSize)");
  }
  return PromiseWorker<ExtentMap>::Run(
      info.Env(),
      [fd = static_cast<int>(*fd), call = *call, offset = *offset, length = *length,
       block_size = *block_size] { return WalkExtents(fd, call, offset, length, block_size); },
      ExtentMapValue);
}

// The first byte that has moved, or -1.
Napi::Value FindMovedByteJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  const auto call = AddressCallFrom(info[1]);
  const auto offset = SafeInteger(info[2]);
  const auto length = SafeInteger(info[3]);
  auto extents = HandleFrom<ExtentList>(info[4]);
  if (!fd || !call || !offset || !length || !extents) {
    return Reject(info.Env(), "findMovedByte(fd, call, offset, length, extents)");
  }
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [fd = static_cast<int>(*fd), call = *call, offset = *offset, length = *length, extents] {
        return FindMovedByte(fd, call, offset, length, *extents);
      },
      NumberOrMinusOne);
}

// A list of extents that did not come from a walk: four numbers a row.
Napi::Value PackExtentsJs(const Napi::CallbackInfo& info) {
  auto rows = PackedNumbers::From(info[0]);
  if (!rows) return Reject(info.Env(), "packExtents(rows)");
  auto extents = std::make_shared<ExtentList>();
  auto row = rows->rows();
  for (; row.size() >= 4; row = row.subspan(4)) {
    extents->Append({static_cast<uint64_t>(row[0]), static_cast<uint64_t>(row[1]),
                     static_cast<uint64_t>(row[2]), static_cast<uint32_t>(row[3])});
  }
  return HandleTo<ExtentList>(info.Env(), extents, extents->memory());
}

// Some extents as plain numbers, four a row; see lib/extents.ts.
Napi::Value ExtentRowsJs(const Napi::CallbackInfo& info) {
  auto extents = HandleFrom<ExtentList>(info[0]);
  const auto first = SafeInteger(info[1]);
  const auto count = SafeInteger(info[2]);
  if (!extents || !first || !count) return Reject(info.Env(), "extentRows(extents, first, count)");
  const size_t from = std::min<size_t>(*first, extents->size());
  const size_t rows = std::min<size_t>(*count, extents->size() - from);
  auto array = Napi::Float64Array::New(info.Env(), rows * 4);
  ExtentList::Reader reader(*extents, from);
  double* row = array.Data();
  for (size_t i = 0; i < rows; i++, row += 4) {
    const Extent extent = *reader.Next();
    row[0] = static_cast<double>(extent.logical);
    row[1] = static_cast<double>(extent.physical);
    row[2] = static_cast<double>(extent.length);
    row[3] = static_cast<double>(extent.flags);
  }
  return array;
}

Napi::Value StringOrUndefined(Napi::Env env, const std::optional<std::string>& text) {
  if (!text) return env.Undefined();
  return Napi::String::New(env, *text);
}

Napi::Value FactsValue(Napi::Env env, FileFacts& facts) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("mode", facts.mode);
  object.Set("size", static_cast<double>(facts.size));
  // Inode numbers are names, not quantities: 64 bits of them must stay apart.
  object.Set("inode", std::to_string(facts.inode));
  object.Set("major", facts.device_major);
  object.Set("minor", facts.device_minor);
  object.Set("attributes", static_cast<double>(facts.attributes & facts.attributes_mask));
  object.Set("filesystemMagic", static_cast<double>(facts.filesystem_magic));
  object.Set("filesystemSize", static_cast<double>(facts.filesystem_size));
  object.Set("inodeFlags", facts.inode_flags);
  object.Set("extendedFlags", facts.extended_flags);
  object.Set("mark", StringOrUndefined(env, facts.mark));
  return object;
}

Napi::Value LoopValue(Napi::Env env, loop::Status& status) {
  Napi::Object device = Napi::Object::New(env);
  device.Set("major", status.device_major);
  device.Set("minor", status.device_minor);
  Napi::Object object = Napi::Object::New(env);
  object.Set("number", status.number);
  object.Set("device", device);
  object.Set("major", status.major);
  object.Set("minor", status.minor);
  object.Set("inode", std::to_string(status.inode));
  object.Set("offset", static_cast<double>(status.offset));
  object.Set("size", static_cast<double>(status.size));
  object.Set("flags", status.flags);
  object.Set("name", status.name);
  return object;
}

Napi::Value LoopsValue(Napi::Env env, std::vector<loop::Status>& loops) {
  Napi::Array array = Napi::Array::New(env, loops.size());
  for (uint32_t i = 0; i < loops.size(); i++) array.Set(i, LoopValue(env, loops[i]));
  return array;
}

Napi::Value LookValue(Napi::Env env, Look& look) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("facts", FactsValue(env, look.facts));
  object.Set("kernelName", StringOrUndefined(env, look.kernel_name));
  object.Set("blockSize", static_cast<double>(look.block_size));
  object.Set("deviceSize", static_cast<double>(look.device_size));
  object.Set("mounts", look.mounts);
  object.Set("ext4Options", look.ext4_options);
  object.Set("swaps", look.swaps);
  object.Set("loops", LoopsValue(env, look.loops));
  return object;
}

Napi::Value OpenFileJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "openFile(path)");
  return PromiseWorker<OpenedFile>::Run(
      info.Env(), [path = info[0].As<Napi::String>().Utf8Value()] { return OpenFile(path); },
      [](Napi::Env env, OpenedFile& opened) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("fd", opened.fd.release());
        object.Set("path", opened.path);
        object.Set("look", LookValue(env, opened.look));
        return object;
      });
}

Napi::Value LookAtJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd) return Reject(info.Env(), "lookAt(fd)");
  return PromiseWorker<Look>::Run(
      info.Env(), [fd = static_cast<int>(*fd)] { return LookAt(fd); }, LookValue);
}

Napi::Value InspectJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd) return Reject(info.Env(), "inspect(fd)");
  return PromiseWorker<FileFacts>::Run(
      info.Env(), [fd = static_cast<int>(*fd)] { return Inspect(fd); }, FactsValue);
}

Napi::Value ReadFirstJs(const Napi::CallbackInfo& info) {
  auto paths = StringsFrom(info[0]);
  if (!paths) return Reject(info.Env(), "readFirst(paths)");
  return PromiseWorker<std::optional<std::string>>::Run(
      info.Env(), [paths = std::move(*paths)] { return ReadFirst(paths); },
      [](Napi::Env env, std::optional<std::string>& text) -> Napi::Value {
        return StringOrUndefined(env, text);
      });
}

Napi::Value ReadFolderJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "readFolder(path)");
  return PromiseWorker<Folder>::Run(
      info.Env(), [path = info[0].As<Napi::String>().Utf8Value()] { return ReadFolder(path); },
      [](Napi::Env env, Folder& folder) -> Napi::Value {
        Napi::Array array = Napi::Array::New(env, folder.size());
        for (uint32_t i = 0; i < folder.size(); i++) {
          Napi::Object object = Napi::Object::New(env);
          object.Set("name", folder[i].first);
          object.Set("text", folder[i].second);
          array.Set(i, object);
        }
        return array;
      });
}

Napi::Value LockRecordJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "lockRecord(path)");
  return PromiseWorker<LockedRecord>::Run(
      info.Env(), [path = info[0].As<Napi::String>().Utf8Value()] { return LockRecord(path); },
      [](Napi::Env env, LockedRecord& record) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("fd", record.fd.release());
        object.Set("text", record.text);
        return object;
      });
}

// A step on an open file that takes a text.
template <Result<Nothing> (*step)(int, const std::string&)>
Napi::Value FileTextStepJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd || !info[1].IsString()) return Reject(info.Env(), "file step(fd, text)");
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd = static_cast<int>(*fd), text = info[1].As<Napi::String>().Utf8Value()] {
        return step(fd, text);
      },
      Undefined);
}

// A step on an open file that answers with nothing but whether it went well.
template <Result<Nothing> (*step)(int)>
Napi::Value FileStepJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd) return Reject(info.Env(), "file step(fd)");
  return PromiseWorker<Nothing>::Run(
      info.Env(), [fd = static_cast<int>(*fd)] { return step(fd); }, Undefined);
}

// Something that a file is or is not.
template <Result<Nothing> (*set)(int, bool)>
Napi::Value FileSwitchJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd || !info[1].IsBoolean()) return Reject(info.Env(), "file switch(fd, on)");
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd = static_cast<int>(*fd), on = info[1].As<Napi::Boolean>().Value()] {
        return set(fd, on);
      },
      Undefined);
}

Napi::Value GetPinCountJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd) return Reject(info.Env(), "getPinCount(fd)");
  return PromiseWorker<uint32_t>::Run(
      info.Env(), [fd = static_cast<int>(*fd)] { return GetPinCount(fd); },
      [](Napi::Env env, uint32_t& count) -> Napi::Value { return Napi::Number::New(env, count); });
}

Napi::Value EndLeaseJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd) return Reject(info.Env(), "endLease(fd)");
  return PromiseWorker<bool>::Run(
      info.Env(), [fd = static_cast<int>(*fd)] { return EndLease(fd); },
      [](Napi::Env env, bool& whole) -> Napi::Value { return Napi::Boolean::New(env, whole); });
}

Napi::Value FindDifferenceJs(const Napi::CallbackInfo& info) {
  const auto file = SafeInteger(info[1]);
  auto runs = PackedNumbers::From(info[2]);
  if (!info[0].IsString() || !file || !runs) {
    return Reject(info.Env(), "findDifference(device, file, runs)");
  }
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [device = info[0].As<Napi::String>().Utf8Value(), file = static_cast<int>(*file), runs] {
        return FindDifference(device, file, runs->rows());
      },
      NumberOrMinusOne);
}

Napi::Value MakeBlockNodeJs(const Napi::CallbackInfo& info) {
  const auto major = SafeInteger(info[1]);
  const auto minor = SafeInteger(info[2]);
  if (!info[0].IsString() || !major || !minor) {
    return Reject(info.Env(), "makeBlockNode(path, major, minor)");
  }
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(), major = static_cast<uint32_t>(*major),
       minor = static_cast<uint32_t>(*minor)] { return MakeBlockNode(path, major, minor); },
      Undefined);
}

// --- segments ---------------------------------------------------------------------------------

struct PackedLayer {
  std::shared_ptr<PackedNumbers> rows;
  std::vector<int32_t> devices;
  // None where no segment is striped.
  std::shared_ptr<PackedNumbers> stripes;

  Layer view() const {
    return {rows->rows(), devices, stripes ? stripes->rows() : std::span<const double>()};
  }
};
using PackedLevel = std::vector<PackedLayer>;

// { rows, devices: number[], stripes? }: each device number of the rows has one in `devices`.
std::optional<PackedLayer> LayerFrom(const Napi::Value& value) {
  if (!value.IsObject()) return std::nullopt;
  const auto object = value.As<Napi::Object>();
  PackedLayer layer{
      PackedNumbers::From(object.Get("rows")), {}, PackedNumbers::From(object.Get("stripes"))};
  const Napi::Value devices = object.Get("devices");
  if (!layer.rows || !devices.IsArray()) return std::nullopt;
  const auto list = devices.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i++) {
    const auto number = SafeInteger(list.Get(i));
    if (!number) return std::nullopt;
    layer.devices.push_back(static_cast<int32_t>(*number));
  }
  return layer;
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

// What a layout's layers lie in, part by part.
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

using LayoutResult = Result<std::shared_ptr<const Layout>>;

LayoutResult LayOut(std::vector<FilePart> parts, std::shared_ptr<const PackedParts> packed) {
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

Napi::Value LayOutJs(const Napi::CallbackInfo& info) {
  const char* usage = "layOut([{ extents, offset, sectors, zeroFlags, levels }])";
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
      [parts = std::move(parts), packed = std::move(packed)] { return LayOut(parts, packed); },
      [](Napi::Env env, std::shared_ptr<const Layout>& layout) -> Napi::Value {
        Napi::Array devices = Napi::Array::New(env, layout->devices().size());
        for (uint32_t i = 0; i < layout->devices().size(); i++) {
          devices.Set(i, layout->devices()[i]);
        }
        Napi::Object object = Napi::Object::New(env);
        object.Set("count", static_cast<double>(layout->size()));
        object.Set("segments", HandleTo(env, layout, 0));
        object.Set("devices", devices);
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

// Segments that JavaScript has packed or that a layout works out. Packed ones are checked before
// they are used, off the event loop.
class GivenSegments {
 public:
  static std::shared_ptr<const GivenSegments> From(const Napi::Value& value) {
    auto given = std::make_shared<GivenSegments>();
    given->packed_ = PackedNumbers::From(value);
    given->source_ = HandleFrom<Layout>(value);
    if (given->packed_) {
      given->source_ = std::make_shared<const PackedSegments>(given->packed_->rows());
    }
    return given->source_ ? given : nullptr;
  }
  Result<Nothing> Check(size_t device_count) const {
    if (!packed_) return Nothing{};
    return CheckSegments(packed_->rows(), device_count);
  }
  const SegmentSource& source() const { return *source_; }

 private:
  std::shared_ptr<PackedNumbers> packed_;
  std::shared_ptr<const SegmentSource> source_;
};

using Finder = Result<std::optional<uint64_t>> (*)(const SegmentSource&, const Layer&);

Result<std::optional<uint64_t>> Overlap(const SegmentSource& segments, const Layer& other) {
  auto checked = CheckSegments(other.rows, other.devices.size());
  if (!checked.ok()) return checked.failure();
  return FindOverlap(segments, other);
}

// Unlike an overlap, it makes sense with any targets: what is neither linear nor zero is different.
Result<std::optional<uint64_t>> Difference(const SegmentSource& segments, const Layer& other) {
  return FindDifferentSector(segments, other);
}

// Something about a table and another whose devices are numbered as `other.devices` says.
template <Finder find>
Napi::Value CompareTablesJs(const Napi::CallbackInfo& info) {
  auto segments = GivenSegments::From(info[0]);
  auto other = LayerFrom(info[1]);
  if (!segments || !other) return Reject(info.Env(), "compare(segments, { rows, devices })");
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [segments, other = std::move(*other)] { return find(segments->source(), other.view()); },
      NumberOrMinusOne);
}

// --- device-mapper ----------------------------------------------------------------------------

Napi::Value DmVersionJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<dm::Version>::Run(
      info.Env(), dm::GetVersion, [](Napi::Env env, dm::Version& version) -> Napi::Value {
        return Napi::String::New(env, std::to_string(version.major) + "." +
                                          std::to_string(version.minor) + "." +
                                          std::to_string(version.patch));
      });
}

Napi::Value DmCreateJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString() || !info[1].IsString()) return Reject(info.Env(), "dmCreate(name, uuid)");
  return PromiseWorker<dm::Device>::Run(
      info.Env(),
      [name = info[0].As<Napi::String>().Utf8Value(),
       uuid = info[1].As<Napi::String>().Utf8Value()] { return dm::Create(name, uuid); },
      DeviceValue);
}

Napi::Value DmLoadJs(const Napi::CallbackInfo& info) {
  const char* usage = "dmLoad(target, segments, devices, readOnly)";
  auto target = TargetFrom(info[0]);
  auto segments = GivenSegments::From(info[1]);
  auto devices = StringsFrom(info[2]);
  if (!target || !segments || !devices || !info[3].IsBoolean()) return Reject(info.Env(), usage);
  return PromiseWorker<dm::Device>::Run(
      info.Env(),
      [target = *target, segments, devices = *devices,
       read_only = info[3].As<Napi::Boolean>().Value()]() -> Result<dm::Device> {
        auto checked = segments->Check(devices.size());
        if (!checked.ok()) return checked.failure();
        return dm::LoadTable(target, segments->source(), devices, read_only);
      },
      DeviceValue);
}

using DeviceCall = Result<dm::Device> (*)(const dm::Target&);

template <DeviceCall call>
Napi::Value DmDeviceJs(const Napi::CallbackInfo& info) {
  auto target = TargetFrom(info[0]);
  if (!target) return Reject(info.Env(), "dm call(target)");
  return PromiseWorker<dm::Device>::Run(
      info.Env(), [target = *target] { return call(target); }, DeviceValue);
}

Napi::Value DmResumeJs(const Napi::CallbackInfo& info) {
  auto target = TargetFrom(info[0]);
  const auto cookie = SafeInteger(info[1]);
  if (!target || !cookie) return Reject(info.Env(), "dmResume(target, cookie)");
  return PromiseWorker<dm::Device>::Run(
      info.Env(),
      [target = *target, cookie = static_cast<uint32_t>(*cookie)] {
        return dm::Resume(target, cookie);
      },
      DeviceValue);
}

Napi::Value DmRemoveJs(const Napi::CallbackInfo& info) {
  auto target = TargetFrom(info[0]);
  const auto cookie = SafeInteger(info[2]);
  if (!target || !info[1].IsBoolean() || !cookie) {
    return Reject(info.Env(), "dmRemove(target, deferred, cookie)");
  }
  return PromiseWorker<dm::Device>::Run(
      info.Env(),
      [target = *target, deferred = info[1].As<Napi::Boolean>().Value(),
       cookie = static_cast<uint32_t>(*cookie)] { return dm::Remove(target, deferred, cookie); },
      DeviceValue);
}

Napi::Value TableValue(Napi::Env env, dm::Table& table) {
  Napi::Array others = Napi::Array::New(env, table.others.size());
  for (uint32_t i = 0; i < table.others.size(); i++) {
    const auto& other = table.others[i];
    Napi::Object object = Napi::Object::New(env);
    object.Set("start", static_cast<double>(other.start));
    object.Set("length", static_cast<double>(other.length));
    object.Set("target", other.target);
    object.Set("parameters", other.parameters);
    others.Set(i, object);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("rows", PackedArray(env, table.rows));
  object.Set("stripes", PackedArray(env, table.stripes));
  object.Set("devices", Strings(env, table.devices));
  object.Set("others", others);
  object.Set("device", DeviceObject(env, table.device));
  return object;
}

Napi::Value DmTableJs(const Napi::CallbackInfo& info) {
  auto target = TargetFrom(info[0]);
  if (!target || !info[1].IsBoolean()) return Reject(info.Env(), "dmTable(target, inactive)");
  return PromiseWorker<dm::Table>::Run(
      info.Env(),
      [target = *target, inactive = info[1].As<Napi::Boolean>().Value()] {
        return dm::GetTable(target, inactive);
      },
      TableValue);
}

Napi::Value DmStackJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "dmStack(device)");
  return PromiseWorker<std::vector<dm::Table>>::Run(
      info.Env(),
      [device = info[0].As<Napi::String>().Utf8Value()] { return dm::GetStack(device); },
      [](Napi::Env env, std::vector<dm::Table>& tables) -> Napi::Value {
        Napi::Array array = Napi::Array::New(env, tables.size());
        for (uint32_t i = 0; i < tables.size(); i++) array.Set(i, TableValue(env, tables[i]));
        return array;
      });
}

Napi::Value DmDependenciesJs(const Napi::CallbackInfo& info) {
  auto target = TargetFrom(info[0]);
  if (!target) return Reject(info.Env(), "dmDependencies(target)");
  return PromiseWorker<std::vector<std::string>>::Run(
      info.Env(), [target = *target] { return dm::Dependencies(target); },
      [](Napi::Env env, std::vector<std::string>& devices) { return Strings(env, devices); });
}

Napi::Value DmListJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<std::vector<dm::Device>>::Run(
      info.Env(), dm::List, [](Napi::Env env, std::vector<dm::Device>& devices) -> Napi::Value {
        Napi::Array array = Napi::Array::New(env, devices.size());
        for (uint32_t i = 0; i < devices.size(); i++) array.Set(i, DeviceObject(env, devices[i]));
        return array;
      });
}

// --- loop -------------------------------------------------------------------------------------

Napi::Value LoopGetFreeJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<uint32_t>::Run(info.Env(), loop::GetFree,
                                      [](Napi::Env env, uint32_t& number) -> Napi::Value {
                                        return Napi::Number::New(env, number);
                                      });
}

// { offset, size, blockSize, readOnly, directIo, partitionScan, name }
std::optional<loop::Settings> LoopSettingsFrom(const Napi::Value& value) {
  if (!value.IsObject()) return std::nullopt;
  const auto object = value.As<Napi::Object>();
  const auto offset = SafeInteger(object.Get("offset"));
  const auto size = SafeInteger(object.Get("size"));
  const auto block_size = SafeInteger(object.Get("blockSize"));
  const Napi::Value name = object.Get("name");
  if (!offset || !size || !block_size || !name.IsString()) return std::nullopt;
  const auto flag = [&](const char* key) { return object.Get(key).ToBoolean().Value(); };
  return loop::Settings{*offset,
                        *size,
                        static_cast<uint32_t>(*block_size),
                        flag("readOnly"),
                        flag("directIo"),
                        flag("partitionScan"),
                        name.As<Napi::String>().Utf8Value()};
}

Napi::Value LoopConfigureJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[1]);
  auto settings = LoopSettingsFrom(info[2]);
  if (!info[0].IsString() || !fd || !settings) {
    return Reject(info.Env(), "loopConfigure(path, fd, settings)");
  }
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(), fd = static_cast<int>(*fd),
       settings = *settings] { return loop::Configure(path, fd, settings); },
      Undefined);
}

Napi::Value LoopStatusJs(const Napi::CallbackInfo& info) {
  const auto number = SafeInteger(info[0]);
  if (!number) return Reject(info.Env(), "loopStatus(number)");
  return PromiseWorker<loop::Status>::Run(
      info.Env(), [number = static_cast<uint32_t>(*number)] { return loop::GetStatus(number); },
      LoopValue);
}

Napi::Value LoopListJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<std::vector<loop::Status>>::Run(info.Env(), loop::List, LoopsValue);
}

Napi::Value LoopResizeJs(const Napi::CallbackInfo& info) {
  const auto size = SafeInteger(info[2]);
  if (!info[0].IsString() || !info[1].IsString() || !size) {
    return Reject(info.Env(), "loopResize(path, name, size)");
  }
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(), name = info[1].As<Napi::String>().Utf8Value(),
       size = *size] { return loop::Resize(path, name, size); },
      Undefined);
}

Napi::Value LoopClearJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString() || !info[1].IsString() || !info[2].IsBoolean()) {
    return Reject(info.Env(), "loopClear(path, name, deferred)");
  }
  return PromiseWorker<loop::Cleared>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(), name = info[1].As<Napi::String>().Utf8Value(),
       deferred = info[2].As<Napi::Boolean>().Value()] {
        return loop::Clear(path, name, deferred);
      },
      [](Napi::Env env, loop::Cleared& cleared) -> Napi::Value {
        switch (cleared) {
          case loop::Cleared::kRemoved:
            return Napi::String::New(env, "removed");
          case loop::Cleared::kDeferred:
            return Napi::String::New(env, "deferred");
          case loop::Cleared::kBusy:
            return Napi::String::New(env, "busy");
        }
        return env.Undefined();
      });
}

// --- udev -------------------------------------------------------------------------------------

Napi::Value CreateCookieJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<Cookie>::Run(info.Env(), CreateCookie,
                                    [](Napi::Env env, Cookie& cookie) -> Napi::Value {
                                      Napi::Object object = Napi::Object::New(env);
                                      object.Set("semaphore", cookie.semaphore);
                                      object.Set("value", cookie.value);
                                      return object;
                                    });
}

Napi::Value PendingEventsJs(const Napi::CallbackInfo& info) {
  const auto semaphore = SafeInteger(info[0]);
  if (!semaphore) return Reject(info.Env(), "pendingEvents(semaphore)");
  return PromiseWorker<int>::Run(
      info.Env(), [id = static_cast<int>(*semaphore)] { return PendingEvents(id); },
      [](Napi::Env env, int& count) -> Napi::Value { return Napi::Number::New(env, count); });
}

Napi::Value DestroyCookieJs(const Napi::CallbackInfo& info) {
  const auto semaphore = SafeInteger(info[0]);
  if (!semaphore) return Reject(info.Env(), "destroyCookie(semaphore)");
  return PromiseWorker<Nothing>::Run(
      info.Env(), [id = static_cast<int>(*semaphore)] { return DestroyCookie(id); }, Undefined);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("walkExtents", WalkExtentsJs);
  add("findMovedByte", FindMovedByteJs);
  add("openFile", OpenFileJs);
  add("lookAt", LookAtJs);
  add("inspect", InspectJs);
  add("sync", FileStepJs<Sync>);
  add("close", FileStepJs<Close>);
  add("readFirst", ReadFirstJs);
  add("readFolder", ReadFolderJs);
  add("lockRecord", LockRecordJs);
  add("writeRecord", FileTextStepJs<WriteRecord>);
  add("releaseRecord", FileTextStepJs<ReleaseRecord>);
  add("dropCache", FileStepJs<DropCache>);
  add("findDifference", FindDifferenceJs);
  add("takeLease", FileStepJs<TakeLease>);
  add("endLease", EndLeaseJs);
  add("setImmutable", FileSwitchJs<SetImmutable>);
  add("setPinned", FileSwitchJs<SetPinned>);
  add("getPinCount", GetPinCountJs);
  add("setMark", FileTextStepJs<SetMark>);
  add("removeMark", FileStepJs<RemoveMark>);
  add("makeBlockNode", MakeBlockNodeJs);
  add("packExtents", PackExtentsJs);
  add("extentRows", ExtentRowsJs);
  add("layOut", LayOutJs);
  add("segmentRows", SegmentRowsJs);
  add("findOverlap", CompareTablesJs<Overlap>);
  add("findDifferentSector", CompareTablesJs<Difference>);
  add("dmVersion", DmVersionJs);
  add("dmCreate", DmCreateJs);
  add("dmLoad", DmLoadJs);
  add("dmResume", DmResumeJs);
  add("dmSuspend", DmDeviceJs<dm::Suspend>);
  add("dmClear", DmDeviceJs<dm::Clear>);
  add("dmStatus", DmDeviceJs<dm::Status>);
  add("dmRemove", DmRemoveJs);
  add("dmTable", DmTableJs);
  add("dmStack", DmStackJs);
  add("dmDependencies", DmDependenciesJs);
  add("dmList", DmListJs);
  add("loopGetFree", LoopGetFreeJs);
  add("loopConfigure", LoopConfigureJs);
  add("loopStatus", LoopStatusJs);
  add("loopList", LoopListJs);
  add("loopResize", LoopResizeJs);
  add("loopClear", LoopClearJs);
  add("createCookie", CreateCookieJs);
  add("pendingEvents", PendingEventsJs);
  add("destroyCookie", DestroyCookieJs);
  return exports;
}

}  // namespace

NODE_API_MODULE(dmloop, Init)

}  // namespace dmloop
