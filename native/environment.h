#pragma once

#include <napi.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "call_threads.h"
#include "held_descriptors.h"

namespace dmloop {

class PendingCall;

// The way from the threads back to an event loop. Calls share its ownership: it outlives the loop.
class Returns {
 public:
  explicit Returns(Napi::Env env);

  // Whether the loop, and with it the process, is kept alive until the calls return.
  void KeepRunning(Napi::Env env, bool keep);
  // A call was given to a thread.
  void Expect();
  // The call has run; null when nobody waits for the result.
  void Take(std::unique_ptr<PendingCall> call);
  // The loop ends. Waits a moment for running calls, so that usually none is left.
  void Close();

 private:
  static void Arrive(Napi::Env env, Napi::Function, std::nullptr_t*, PendingCall* call);

  std::mutex mutex_;
  std::condition_variable all_taken_;
  size_t expected_ = 0;
  // The environment deletes it when it ends: until then, and not longer, `open_` is true.
  Napi::TypedThreadSafeFunction<std::nullptr_t, PendingCall, Arrive> loop_;
  bool open_ = true;
};

// A call whose result JavaScript waits for.
class PendingCall : public Call {
 public:
  // On the event loop.
  virtual void Settle(Napi::Env env) = 0;
  void Return(std::unique_ptr<Call> self) override;

 private:
  friend class Environment;

  std::shared_ptr<Returns> returns_;
  uint32_t number_ = 0;
};

// The addon's state in an environment: that of the main thread, or of a worker.
class Environment {
 public:
  // Creates it; the environment owns it.
  static void Make(Napi::Env env);
  static Environment& Of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  explicit Environment(Napi::Env env) : returns_(std::make_shared<Returns>(env)) {}

  // Runs a call on a thread, and settles it afterwards. Returns its number.
  uint32_t Start(Napi::Env env, std::unique_ptr<PendingCall> call);
  void Settle(Napi::Env env, std::unique_ptr<PendingCall> call);
  // Nothing when the call is settled.
  const Progress* ProgressOf(uint32_t number) const;

  HeldDescriptors& descriptors() { return descriptors_; }

 private:
  void End();

  HeldDescriptors descriptors_;
  std::shared_ptr<Returns> returns_;
  std::unordered_map<uint32_t, const PendingCall*> pending_;
  uint32_t last_number_ = 0;
};

}  // namespace dmloop
