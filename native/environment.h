#pragma once

#include <napi.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "call_threads.h"
#include "held_descriptors.h"
#include "progress.h"

namespace dmloop {

class Batch;

// The way from the threads back to an event loop. Calls share its ownership: it outlives the loop.
class Returns {
 public:
  explicit Returns(Napi::Env env);

  // Whether the loop, and with it the process, is kept alive until the calls return.
  void KeepRunning(Napi::Env env, bool keep);
  // Something was given to a thread.
  void Expect();
  // It has run; null when nobody waits for a result.
  void Take(std::unique_ptr<Batch> batch);
  // The loop ends. Waits a moment for running calls, so that usually none is left.
  void Close();

 private:
  static void Arrive(Napi::Env env, Napi::Function, std::nullptr_t*, Batch* batch);

  std::mutex mutex_;
  std::condition_variable all_taken_;
  size_t expected_ = 0;
  // The environment deletes it when it ends: until then, and not longer, `open_` is true.
  Napi::TypedThreadSafeFunction<std::nullptr_t, Batch, Arrive> loop_;
  bool open_ = true;
};

// A call whose result JavaScript waits for.
class PendingCall {
 public:
  PendingCall() = default;
  PendingCall(const PendingCall&) = delete;
  PendingCall& operator=(const PendingCall&) = delete;
  virtual ~PendingCall() = default;

  // On a thread.
  void Execute();
  virtual void Refuse(const Failure& failure) = 0;
  // On the event loop.
  virtual void Settle(Napi::Env env) = 0;

  const Progress& progress() const { return progress_; }

 protected:
  virtual void DoWork() = 0;

 private:
  friend class Environment;

  Progress progress_;
  uint32_t number_ = 0;
};

using PendingCalls = std::vector<std::unique_ptr<PendingCall>>;

// Calls that one thread makes, one after the other. Most are alone, but a trip to a thread and back
// takes many times as long as a short call.
class Batch : public Call {
 public:
  Batch(PendingCalls calls, std::shared_ptr<Returns> returns)
      : calls_(std::move(calls)), returns_(std::move(returns)) {}

  void Execute() override;
  void Refuse(const Failure& failure) override;
  void Return(std::unique_ptr<Call> self) override;

  PendingCalls& calls() { return calls_; }

 private:
  PendingCalls calls_;
  std::shared_ptr<Returns> returns_;
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
  // Whether calls wait from now on, to be run together.
  void Collect(bool collect) { collecting_ = collect; }
  void StartCollected() { Run(std::exchange(collected_, {})); }
  void Settle(Napi::Env env, const PendingCalls& calls);
  // Nothing when the call is settled.
  const Progress* ProgressOf(uint32_t number) const;

  HeldDescriptors& descriptors() { return descriptors_; }

 private:
  void Run(PendingCalls calls);
  void End();

  HeldDescriptors descriptors_;
  std::shared_ptr<Returns> returns_;
  std::unordered_map<uint32_t, const PendingCall*> pending_;
  uint32_t last_number_ = 0;
  PendingCalls collected_;
  bool collecting_ = false;
};

}  // namespace dmloop
