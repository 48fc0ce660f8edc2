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

}  // namespace

void AddCalls(Napi::Object& exports) { Add(exports, "callProgress", CallProgressJs); }

}  // namespace dmloop
