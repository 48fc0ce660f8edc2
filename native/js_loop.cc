#include "js_loop.h"

namespace dmloop {

namespace {

Napi::Value LoopValue(Napi::Env env, loop::Status& status) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("number", status.number);
  object.Set("device", DeviceNumberObject(env, {status.device_major, status.device_minor}));
  object.Set("major", status.major);
  object.Set("minor", status.minor);
  object.Set("inode", std::to_string(status.inode));
  object.Set("backingDevice", DeviceNumberObject(env, {status.file_major, status.file_minor}));
  object.Set("offset", static_cast<double>(status.offset));
  object.Set("size", static_cast<double>(status.size));
  object.Set("flags", status.flags);
  object.Set("name", status.name);
  return object;
}

}  // namespace

Napi::Value LoopsValue(Napi::Env env, std::vector<loop::Status>& loops) {
  return ArrayOf(env, loops, LoopValue);
}

namespace {

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
  const auto fd = UsedDescriptor::From(info[1]);
  auto settings = LoopSettingsFrom(info[2]);
  if (!info[0].IsString() || !fd || !settings) {
    return Reject(info.Env(), "loopConfigure(path, fd, settings)");
  }
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(), fd = *fd, settings = *settings] {
        return loop::Configure(path, fd.get(), settings);
      },
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
  return PromiseWorker<std::vector<loop::Status>>::Run(
      info.Env(), [] { return Result(loop::List()); }, LoopsValue);
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

}  // namespace

void AddLoop(Napi::Object& exports) {
  Add(exports, "loopGetFree", LoopGetFreeJs);
  Add(exports, "loopConfigure", LoopConfigureJs);
  Add(exports, "loopStatus", LoopStatusJs);
  Add(exports, "loopList", LoopListJs);
  Add(exports, "loopResize", LoopResizeJs);
  Add(exports, "loopClear", LoopClearJs);
}

}  // namespace dmloop
