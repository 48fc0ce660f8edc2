#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "environment.h"
#include "result.h"

namespace dmloop {

inline Napi::Object FailureObject(Napi::Env env, const Failure& failure) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("errno", -failure.error);
  object.Set("syscall", failure.syscall);
  if (!failure.path.empty()) object.Set("path", failure.path);
  return object;
}

// Runs `work` on a thread and settles a promise with its result: `{ value }` or
// `{ failure: { errno, syscall, path? } }`. The promise itself never rejects, because an error made
// here would have no JavaScript stack; TypeScript makes it where the caller can see it. The promise
// has the number of the call, for callProgress.
template <typename T>
class PromiseWorker : public PendingCall {
 public:
  using Work = std::function<Result<T>()>;
  using Convert = Napi::Value (*)(Napi::Env, T&);

  static Napi::Value Run(Napi::Env env, Work work, Convert convert) {
    auto worker = std::make_unique<PromiseWorker>(env, std::move(work), convert);
    Napi::Promise promise = worker->deferred_.Promise();
    promise.Set("call", Environment::Of(env).Start(env, std::move(worker)));
    return promise;
  }

  PromiseWorker(Napi::Env env, Work work, Convert convert)
      : deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)), convert_(convert) {}

  void Refuse(const Failure& failure) override { result_.emplace(failure); }

  void Settle(Napi::Env env) override {
    Napi::Object settled = Napi::Object::New(env);
    if (result_->ok()) {
      settled.Set("value", convert_(env, result_->value()));
    } else {
      settled.Set("failure", FailureObject(env, result_->failure()));
    }
    deferred_.Resolve(settled);
  }

 protected:
  void DoWork() override {
    result_.emplace(work_());
    // Its arguments are destroyed on the same thread: closing a descriptor may take long.
    work_ = nullptr;
  }

 private:
  Napi::Promise::Deferred deferred_;
  Work work_;
  Convert convert_;
  std::optional<Result<T>> result_;
};

}  // namespace dmloop
