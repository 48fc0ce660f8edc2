#pragma once

#include <napi.h>

#include <functional>
#include <optional>
#include <utility>

#include "result.h"

namespace dmloop {

inline Napi::Object FailureObject(Napi::Env env, const Failure& failure) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("errno", -failure.error);
  object.Set("syscall", failure.syscall);
  if (!failure.path.empty()) object.Set("path", failure.path);
  return object;
}

// Runs `work` on a worker thread and settles a promise with what it found: `{ value }` or
// `{ failure: { errno, syscall, path? } }`. The promise itself never rejects, because an error made
// here would have no JavaScript stack; TypeScript makes it where the caller can see it.
template <typename T>
class PromiseWorker : public Napi::AsyncWorker {
 public:
  using Work = std::function<Result<T>()>;
  using Convert = Napi::Value (*)(Napi::Env, T&);

  static Napi::Value Run(Napi::Env env, Work work, Convert convert) {
    auto* worker = new PromiseWorker(env, std::move(work), convert);  // Deletes itself when done.
    const Napi::Promise promise = worker->deferred_.Promise();
    worker->Queue();
    return promise;
  }

 protected:
  void Execute() override { result_.emplace(work_()); }

  void OnOK() override {
    const Napi::Env env = Env();
    Napi::Object settled = Napi::Object::New(env);
    if (result_->ok()) {
      settled.Set("value", convert_(env, result_->value()));
    } else {
      settled.Set("failure", FailureObject(env, result_->failure()));
    }
    deferred_.Resolve(settled);
  }

 private:
  PromiseWorker(Napi::Env env, Work work, Convert convert)
      : Napi::AsyncWorker(env, "dmloop"),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        convert_(convert) {}

  Napi::Promise::Deferred deferred_;
  Work work_;
  Convert convert_;
  std::optional<Result<T>> result_;
};

}  // namespace dmloop
