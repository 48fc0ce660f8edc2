#include "call_threads.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace dmloop {

namespace {

constexpr std::chrono::seconds kIdleTime{5};
// Most calls are short, and the next one follows soon. A sleeping thread of an idle processor takes
// longer to wake than that: on two processors of a virtual machine, a call and its way back took 16
// microseconds in the median instead of 43.
constexpr std::chrono::microseconds kSpinTime{50};
// Nothing here recurses, nor has more than a few pages on the stack; a sanitizer's frames are
// larger.
constexpr size_t kStackSize = size_t{1} << 20;

struct ThreadAttributes {
  ThreadAttributes() {
    pthread_attr_init(&value);
    pthread_attr_setdetachstate(&value, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&value, kStackSize);
  }
  ThreadAttributes(const ThreadAttributes&) = delete;
  ThreadAttributes& operator=(const ThreadAttributes&) = delete;
  ~ThreadAttributes() { pthread_attr_destroy(&value); }

  pthread_attr_t value;
};

// Waits for a short while without sleeping. With one processor, nobody could set it meanwhile.
void Spin(const std::atomic<bool>& set) {
  static const bool alone = std::thread::hardware_concurrency() == 1;
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  while (!alone && !set && std::chrono::steady_clock::now() < end) {
  }
}

}  // namespace

CallThreads& CallThreads::Get() {
  static CallThreads& threads = *std::make_unique<CallThreads>().release();
  return threads;
}

void CallThreads::Run(std::unique_ptr<Call> call) {
  std::unique_lock lock(mutex_);
  if (!idle_.empty()) {
    Thread& thread = *idle_.back();
    idle_.pop_back();
    thread.call = std::move(call);
    thread.called = true;
    thread.has_call.notify_one();
    return;
  }
  const int error = count_ < kMaximum ? Start(call) : 0;
  if (!call) {
    count_++;
  } else if (count_ > 0) {
    waiting_.push_back(std::move(call));
  } else {
    lock.unlock();
    call->Refuse({error, "pthread_create"});
    Call& refused = *call;
    refused.Return(std::move(call));
  }
}

// Takes the call if there can be a thread; else returns why not.
int CallThreads::Start(std::unique_ptr<Call>& call) {
  const ThreadAttributes attributes;
  const auto serve = [](void* first) -> void* {
    pthread_setname_np(pthread_self(), "dmloop");
    Get().Serve(std::unique_ptr<Call>(static_cast<Call*>(first)));
    return nullptr;
  };
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes.value, serve, call.get());
  if (error == 0) static_cast<void>(call.release());
  return error;
}

void CallThreads::Serve(std::unique_ptr<Call> call) {
  Thread thread;
  for (; call; call = Next(thread)) {
    call->Execute();
    Call& done = *call;
    done.Return(std::move(call));
  }
}

std::unique_ptr<Call> CallThreads::Next(Thread& thread) {
  std::unique_lock lock(mutex_);
  if (!waiting_.empty()) {
    auto call = std::move(waiting_.front());
    waiting_.pop_front();
    return call;
  }
  thread.called = false;
  idle_.push_back(&thread);
  lock.unlock();
  Spin(thread.called);
  lock.lock();
  if (!thread.has_call.wait_for(lock, kIdleTime, [&] { return thread.call != nullptr; })) {
    idle_.erase(std::find(idle_.begin(), idle_.end(), &thread));
    count_--;
  }
  return std::move(thread.call);
}

}  // namespace dmloop
