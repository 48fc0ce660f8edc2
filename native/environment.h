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

// The way from the threads back to an event loop. Calls have it too: it is there when the loop is
// gone.
class Returns {
 public:
  explicit Returns(Napi::Env env);

  // Whether the loop, and with it the process, goes on as long as a call may return.
  void KeepRunning(Napi::Env env, bool keep);
  // A thread is given a call.
  void Expect();
  // It has run it; none when nobody waits for the result.
  void Take(std::unique_ptr<PendingCall> call);
  // The loop ends. Waits a moment for what is under way, so that usually nothing is left of it.
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

// What an environment (that of the main thread, or of a worker) has of the addon.
class Environment {
 public:
  // Makes it; it belongs to the environment.
  static void Make(Napi::Env env);
  static Environment& Of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  explicit Environment(Napi::Env env) : returns_(std::make_shared<Returns>(env)) {}

  // Has a call run on a thread, and settled afterwards. Returns its number.
  uint32_t Start(Napi::Env env, std::unique_ptr<PendingCall> call);
  void Settle(Napi::Env env, std::unique_ptr<PendingCall> call);
  // Nothing when the call has been settled.
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
