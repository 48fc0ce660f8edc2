#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "result.h"

namespace dmloop {

// Work that makes system calls and may wait without end: a frozen filesystem, a dead disk or a
// vanished server does not answer, and such a wait cannot be interrupted.
//
// It has one owner at a time: its thread while it runs; then the queue of its environment's
// thread-safe function; then the event loop. If the environment has ended meanwhile, the thread
// deletes it, and what it has opened is closed. It may outlive the environment, so it owns whatever
// it uses, and refers to no memory or descriptor of JavaScript's.
class Call {
 public:
  virtual ~Call() = default;

  // Runs on a thread, which passes the call on with Return afterwards.
  virtual void Execute() = 0;
  // In place of Execute, when no thread can be created.
  virtual void Refuse(const Failure& failure) = 0;
  // Receives the call when it has run.
  virtual void Return(std::unique_ptr<Call> self) = 0;
};

// Threads for calls, shared by all environments of the process. A call gets an idle thread or a new
// one, and waits for one only when kMaximum are busy: then most of them are stuck, and more would
// be too. A thread that has been idle for a while ends.
//
// The threads are never joined, and this is never destroyed: exit(3) must not wait for a stuck
// call.
class CallThreads {
 public:
  static CallThreads& Get();

  void Run(std::unique_ptr<Call> call);

 private:
  struct Thread {
    std::unique_ptr<Call> call;
    std::condition_variable has_call;
    // Set with `call`, for a thread that waits for it without the lock.
    std::atomic<bool> called = false;
  };

  static constexpr size_t kMaximum = 128;

  int Start(std::unique_ptr<Call>& call);
  void Serve(std::unique_ptr<Call> call);
  // The next call for a thread that has finished one; null when the thread is to end.
  std::unique_ptr<Call> Next(Thread& thread);

  std::mutex mutex_;
  // The thread that was busy last is at the end, and is used first, so that the others can end.
  std::vector<Thread*> idle_;
  std::deque<std::unique_ptr<Call>> waiting_;
  size_t count_ = 0;
};

}  // namespace dmloop
