#include "environment.h"

#include <chrono>
#include <utility>

namespace dmloop {

namespace {

// Any call that is not stuck is back before.
constexpr std::chrono::milliseconds kMoment{100};

// A close(2) may be stuck as well, and must not hold the end of a worker up.
class Closing : public Call {
 public:
  Closing(HeldDescriptors descriptors, std::shared_ptr<Returns> returns)
      : descriptors_(std::move(descriptors)), returns_(std::move(returns)) {}

  void Execute() override { const HeldDescriptors closed(std::move(descriptors_)); }
  void Refuse(const Failure&) override {}
  void Return(std::unique_ptr<Call> self) override {
    const auto returns = returns_;
    self.reset();
    returns->Take(nullptr);
  }

 private:
  HeldDescriptors descriptors_;
  std::shared_ptr<Returns> returns_;
};

}  // namespace

Returns::Returns(Napi::Env env) : loop_(decltype(loop_)::New(env, "dmloop", 0, 1)) {
  loop_.Unref(env);
}

void Returns::KeepRunning(Napi::Env env, bool keep) {
  static_cast<void>(keep ? loop_.Ref(env) : loop_.Unref(env));
}

void Returns::Expect() {
  const std::lock_guard lock(mutex_);
  expected_++;
}

void Returns::Take(std::unique_ptr<Batch> batch) {
  std::unique_lock lock(mutex_);
  if (open_ && batch && loop_.NonBlockingCall(batch.get()) == napi_ok) {
    static_cast<void>(batch.release());
  }
  // What has come too late is deleted before it counts as taken, and may be slow to close.
  lock.unlock();
  batch.reset();
  lock.lock();
  expected_--;
  all_taken_.notify_all();
}

void Returns::Close() {
  std::unique_lock lock(mutex_);
  open_ = false;
  all_taken_.wait_for(lock, kMoment, [this] { return expected_ == 0; });
}

void Returns::Arrive(Napi::Env env, Napi::Function, std::nullptr_t*, Batch* batch) {
  const std::unique_ptr<Batch> arrived(batch);
  // Without one, the environment empties the queue as it ends.
  if (static_cast<napi_env>(env) == nullptr) return;
  Environment::Of(env).Settle(env, arrived->calls());
}

void PendingCall::Execute() {
  current_progress = &progress_;
  DoWork();
  current_progress = nullptr;
}

void Batch::Execute() {
  for (const auto& call : calls_) call->Execute();
}

void Batch::Refuse(const Failure& failure) {
  for (const auto& call : calls_) call->Refuse(failure);
}

void Batch::Return(std::unique_ptr<Call> self) {
  static_cast<void>(self.release());
  const auto returns = returns_;
  returns->Take(std::unique_ptr<Batch>(this));
}

void Environment::Make(Napi::Env env) {
  auto made = std::make_unique<Environment>(env);
  // After the thread-safe function was made: what was added last is called first.
  env.AddCleanupHook([](Environment* environment) { environment->End(); }, made.get());
  env.SetInstanceData(made.release());
}

uint32_t Environment::Start(Napi::Env env, std::unique_ptr<PendingCall> call) {
  const uint32_t number = ++last_number_;
  call->number_ = number;
  if (pending_.empty()) returns_->KeepRunning(env, true);
  pending_.emplace(number, call.get());
  PendingCalls alone;
  (collecting_ ? collected_ : alone).push_back(std::move(call));
  if (!collecting_) Run(std::move(alone));
  return number;
}

void Environment::Run(PendingCalls calls) {
  returns_->Expect();
  CallThreads::Get().Run(std::make_unique<Batch>(std::move(calls), returns_));
}

void Environment::Settle(Napi::Env env, const PendingCalls& calls) {
  for (const auto& call : calls) pending_.erase(call->number_);
  if (pending_.empty()) returns_->KeepRunning(env, false);
  for (const auto& call : calls) call->Settle(env);
}

const Progress* Environment::ProgressOf(uint32_t number) const {
  const auto found = pending_.find(number);
  return found == pending_.end() ? nullptr : &found->second->progress();
}

void Environment::End() {
  if (!descriptors_.empty()) {
    returns_->Expect();
    CallThreads::Get().Run(std::make_unique<Closing>(std::move(descriptors_), returns_));
  }
  returns_->Close();
}

}  // namespace dmloop
