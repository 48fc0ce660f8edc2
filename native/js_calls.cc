#include "js_values.h"

namespace dmloop {

namespace {

// The progress of a call, by its number; undefined when it is settled.
Napi::Value CallProgressJs(const Napi::CallbackInfo& info) {
  const auto number = SafeInteger(info[0]);
  if (!number) return Reject(info.Env(), "callProgress(call)");
  const Progress* progress = Environment::Of(info.Env()).ProgressOf(static_cast<uint32_t>(*number));
  if (progress == nullptr) return info.Env().Undefined();
  Napi::Object object = Napi::Object::New(info.Env());
  const char* syscall = progress->syscall.load(std::memory_order_relaxed);
  if (syscall != nullptr) object.Set("syscall", syscall);
  object.Set("steps", progress->steps.load(std::memory_order_relaxed));
  return object;
}

Napi::Value CollectCallsJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsBoolean()) return Reject(info.Env(), "collectCalls(collect)");
  Environment::Of(info.Env()).Collect(info[0].As<Napi::Boolean>().Value());
  return info.Env().Undefined();
}

Napi::Value StartCollectedJs(const Napi::CallbackInfo& info) {
  Environment::Of(info.Env()).StartCollected();
  return info.Env().Undefined();
}

}  // namespace

void AddCalls(Napi::Object& exports) {
  Add(exports, "callProgress", CallProgressJs);
  Add(exports, "collectCalls", CollectCallsJs);
  Add(exports, "startCollected", StartCollectedJs);
}

}  // namespace dmloop
