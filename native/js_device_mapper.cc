#include "device_mapper.h"
#include "js_segments.h"
#include "js_values.h"

namespace dmloop {

namespace {

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

Napi::Value DmMakeJs(const Napi::CallbackInfo& info) {
  const char* usage = "dmMake(name, uuid, segments, devices, readOnly, cookie)";
  auto segments = GivenSegments::From(info[2]);
  auto devices = StringsFrom(info[3]);
  const auto cookie = SafeInteger(info[5]);
  if (!info[0].IsString() || !info[1].IsString() || !segments || !devices || !info[4].IsBoolean() ||
      !cookie) {
    return Reject(info.Env(), usage);
  }
  return PromiseWorker<dm::Device>::Run(
      info.Env(),
      [name = info[0].As<Napi::String>().Utf8Value(), uuid = info[1].As<Napi::String>().Utf8Value(),
       segments, devices = *devices, read_only = info[4].As<Napi::Boolean>().Value(),
       cookie = static_cast<uint32_t>(*cookie)]() -> Result<dm::Device> {
        auto checked = segments->Check(devices.size());
        if (!checked.ok()) return checked.failure();
        return dm::Make(name, uuid, segments->source(), devices, read_only, cookie);
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

Napi::Object OtherObject(Napi::Env env, const dm::Table::Other& other) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("start", static_cast<double>(other.start));
  object.Set("length", static_cast<double>(other.length));
  object.Set("target", other.target);
  object.Set("parameters", other.parameters);
  return object;
}

Napi::Value TableValue(Napi::Env env, dm::Table& table) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("rows", PackedArray(env, table.rows));
  object.Set("stripes", PackedArray(env, table.stripes));
  object.Set("devices", Strings(env, table.devices));
  object.Set("others", ArrayOf(env, table.others, OtherObject));
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
        return ArrayOf(env, tables, TableValue);
      });
}

Napi::Value DmListJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<std::vector<dm::Device>>::Run(
      info.Env(), dm::List, [](Napi::Env env, std::vector<dm::Device>& devices) -> Napi::Value {
        return ArrayOf(env, devices, DeviceObject);
      });
}

}  // namespace

void AddDeviceMapper(Napi::Object& exports) {
  Add(exports, "dmVersion", DmVersionJs);
  Add(exports, "dmCreate", DmCreateJs);
  Add(exports, "dmLoad", DmLoadJs);
  Add(exports, "dmMake", DmMakeJs);
  Add(exports, "dmResume", DmResumeJs);
  Add(exports, "dmClear", DmDeviceJs<dm::Clear>);
  Add(exports, "dmStatus", DmDeviceJs<dm::Status>);
  Add(exports, "dmRemove", DmRemoveJs);
  Add(exports, "dmTable", DmTableJs);
  Add(exports, "dmStack", DmStackJs);
  Add(exports, "dmList", DmListJs);
}

}  // namespace dmloop
