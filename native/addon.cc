#include <napi.h>

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
#include "extent_walk.h"
#include "file_facts.h"
#include "files.h"
#include "guard.h"
#include "loop.h"
#include "packed_rows.h"
#include "promise_worker.h"
#include "safe_integer.h"
#include "segments.h"
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

Napi::Value WalkExtentsJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  const auto call = AddressCallFrom(info[1]);
  const auto offset = SafeInteger(info[2]);
  const auto length = SafeInteger(info[3]);
  if (!fd || !call || !offset || !length) {
    return Reject(info.Env(), "walkExtents(fd, call, offset, length)");
  }
  return PromiseWorker<ExtentMap>::Run(
      info.Env(),
      [fd = static_cast<int>(*fd), call = *call, offset = *offset, length = *length] {
        return WalkExtents(fd, call, offset, length);
      },
      [](Napi::Env env, ExtentMap& map) -> Napi::Value {
        const uint64_t alignment = map.bits & (~map.bits + 1);
        Napi::Object object = Napi::Object::New(env);
        object.Set("rows", PackedArray(env, map.rows));
        object.Set("holes", PackedArray(env, map.holes));
        object.Set("flags", map.flags);
        object.Set("alignment", static_cast<double>(alignment));
        return object;
      });
}

// The first byte that has moved, or -1.
Napi::Value FindMovedByteJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  const auto call = AddressCallFrom(info[1]);
  const auto offset = SafeInteger(info[2]);
  const auto length = SafeInteger(info[3]);
  auto rows = PackedNumbers::From(info[4]);
  if (!fd || !call || !offset || !length || !rows) {
    return Reject(info.Env(), "findMovedByte(fd, call, offset, length, rows)");
  }
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [fd = static_cast<int>(*fd), call = *call, offset = *offset, length = *length, rows] {
        return FindMovedByte(fd, call, offset, length, rows->rows());
      },
      NumberOrMinusOne);
}

Napi::Value InspectJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd) return Reject(info.Env(), "inspect(fd)");
  return PromiseWorker<FileFacts>::Run(
      info.Env(), [fd = static_cast<int>(*fd)] { return Inspect(fd); },
      [](Napi::Env env, FileFacts& facts) -> Napi::Value {
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
        return object;
      });
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

Napi::Value LeaseIsWholeJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd) return Reject(info.Env(), "leaseIsWhole(fd)");
  return PromiseWorker<bool>::Run(
      info.Env(), [fd = static_cast<int>(*fd)] { return LeaseIsWhole(fd); },
      [](Napi::Env env, bool& whole) -> Napi::Value { return Napi::Boolean::New(env, whole); });
}

Napi::Value GetMarkJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd) return Reject(info.Env(), "getMark(fd)");
  return PromiseWorker<std::optional<std::string>>::Run(
      info.Env(), [fd = static_cast<int>(*fd)] { return GetMark(fd); },
      [](Napi::Env env, std::optional<std::string>& mark) -> Napi::Value {
        if (!mark) return env.Undefined();
        return Napi::String::New(env, *mark);
      });
}

Napi::Value SetMarkJs(const Napi::CallbackInfo& info) {
  const auto fd = SafeInteger(info[0]);
  if (!fd || !info[1].IsString()) return Reject(info.Env(), "setMark(fd, mark)");
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd = static_cast<int>(*fd), mark = info[1].As<Napi::String>().Utf8Value()] {
        return SetMark(fd, mark);
      },
      Undefined);
}

Napi::Value FindDifferenceJs(const Napi::CallbackInfo& info) {
  const auto left = SafeInteger(info[0]);
  const auto left_offset = SafeInteger(info[1]);
  const auto right = SafeInteger(info[2]);
  const auto right_offset = SafeInteger(info[3]);
  const auto length = SafeInteger(info[4]);
  if (!left || !left_offset || !right || !right_offset || !length) {
    return Reject(info.Env(), "findDifference(left, leftOffset, right, rightOffset, length)");
  }
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [left = static_cast<int>(*left), left_offset = *left_offset, right = static_cast<int>(*right),
       right_offset = *right_offset,
       length = *length] { return FindDifference(left, left_offset, right, right_offset, length); },
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

Result<Translation> LayOutPacked(std::span<const double> extents, uint64_t offset, uint64_t length,
                                 uint32_t zero_flags, const std::vector<PackedLevel>& packed) {
  std::vector<Level> levels;
  for (const PackedLevel& layers : packed) {
    Level& level = levels.emplace_back();
    for (const PackedLayer& layer : layers) {
      level.push_back(layer.view());
      auto checked = CheckLayer(level.back());
      if (!checked.ok()) return checked.failure();
    }
  }
  return LayOut(extents, offset, length, zero_flags, levels);
}

Napi::Value LayOutJs(const Napi::CallbackInfo& info) {
  auto extents = PackedNumbers::From(info[0]);
  const auto offset = SafeInteger(info[1]);
  const auto length = SafeInteger(info[2]);
  const auto zero_flags = SafeInteger(info[3]);
  auto levels = LevelsFrom(info[4]);
  if (!extents || !offset || !length || !zero_flags || !levels) {
    return Reject(info.Env(), "layOut(extents, offset, sectors, zeroFlags, levels)");
  }
  return PromiseWorker<Translation>::Run(
      info.Env(),
      [extents, offset = *offset, length = *length, flags = static_cast<uint32_t>(*zero_flags),
       levels = std::move(*levels)] {
        return LayOutPacked(extents->rows(), offset, length, flags, levels);
      },
      [](Napi::Env env, Translation& translation) -> Napi::Value {
        Napi::Array devices = Napi::Array::New(env, translation.devices.size());
        for (uint32_t i = 0; i < translation.devices.size(); i++) {
          devices.Set(i, translation.devices[i]);
        }
        Napi::Object object = Napi::Object::New(env);
        object.Set("rows", PackedArray(env, translation.rows));
        object.Set("devices", devices);
        return object;
      });
}

Napi::Value FindOverlapJs(const Napi::CallbackInfo& info) {
  auto segments = PackedNumbers::From(info[0]);
  auto other = LayerFrom(info[1]);
  if (!segments || !other) return Reject(info.Env(), "findOverlap(segments, { rows, devices })");
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [segments, other = std::move(*other)]() -> Result<std::optional<uint64_t>> {
        auto checked = CheckSegments(other.rows->rows(), other.devices.size());
        if (!checked.ok()) return checked.failure();
        return FindOverlap(segments->rows(), other.view());
      },
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
  auto segments = PackedNumbers::From(info[1]);
  auto devices = StringsFrom(info[2]);
  if (!target || !segments || !devices || !info[3].IsBoolean()) return Reject(info.Env(), usage);
  return PromiseWorker<dm::Device>::Run(
      info.Env(),
      [target = *target, segments, devices = *devices,
       read_only = info[3].As<Napi::Boolean>().Value()]() -> Result<dm::Device> {
        auto checked = CheckSegments(segments->rows(), devices.size());
        if (!checked.ok()) return checked.failure();
        return dm::LoadTable(target, segments->rows(), devices, read_only);
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

Napi::Value DmTableJs(const Napi::CallbackInfo& info) {
  auto target = TargetFrom(info[0]);
  if (!target || !info[1].IsBoolean()) return Reject(info.Env(), "dmTable(target, inactive)");
  return PromiseWorker<dm::Table>::Run(
      info.Env(),
      [target = *target, inactive = info[1].As<Napi::Boolean>().Value()] {
        return dm::GetTable(target, inactive);
      },
      [](Napi::Env env, dm::Table& table) -> Napi::Value {
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
  if (!info[0].IsString()) return Reject(info.Env(), "loopStatus(path)");
  return PromiseWorker<loop::Status>::Run(
      info.Env(), [path = info[0].As<Napi::String>().Utf8Value()] { return loop::GetStatus(path); },
      [](Napi::Env env, loop::Status& status) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("major", status.major);
        object.Set("minor", status.minor);
        object.Set("inode", std::to_string(status.inode));
        object.Set("offset", static_cast<double>(status.offset));
        object.Set("size", static_cast<double>(status.size));
        object.Set("flags", status.flags);
        object.Set("name", status.name);
        return object;
      });
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
  add("inspect", InspectJs);
  add("tryLock", FileStepJs<TryLock>);
  add("dropCache", FileStepJs<DropCache>);
  add("findDifference", FindDifferenceJs);
  add("takeLease", FileStepJs<TakeLease>);
  add("leaseIsWhole", LeaseIsWholeJs);
  add("dropLease", FileStepJs<DropLease>);
  add("setImmutable", FileSwitchJs<SetImmutable>);
  add("setPinned", FileSwitchJs<SetPinned>);
  add("getPinCount", GetPinCountJs);
  add("getMark", GetMarkJs);
  add("setMark", SetMarkJs);
  add("removeMark", FileStepJs<RemoveMark>);
  add("makeBlockNode", MakeBlockNodeJs);
  add("layOut", LayOutJs);
  add("findOverlap", FindOverlapJs);
  add("dmVersion", DmVersionJs);
  add("dmCreate", DmCreateJs);
  add("dmLoad", DmLoadJs);
  add("dmResume", DmResumeJs);
  add("dmSuspend", DmDeviceJs<dm::Suspend>);
  add("dmClear", DmDeviceJs<dm::Clear>);
  add("dmStatus", DmDeviceJs<dm::Status>);
  add("dmRemove", DmRemoveJs);
  add("dmTable", DmTableJs);
  add("dmDependencies", DmDependenciesJs);
  add("dmList", DmListJs);
  add("loopGetFree", LoopGetFreeJs);
  add("loopConfigure", LoopConfigureJs);
  add("loopStatus", LoopStatusJs);
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
