#pragma once

#include <atomic>
#include <cstdint>

namespace dmloop {

// What a call is at, for whoever waits for it on another thread. All of it may be out of date by
// the time that it is read, so the order of its parts does not matter.
struct Progress {
  // What the kernel was last asked for; none before the first.
  std::atomic<const char*> syscall = nullptr;
  // How often it has been asked: a call that goes on asking is not stuck.
  std::atomic<uint32_t> steps = 0;
};

// That of the call which this thread runs.
inline thread_local Progress* current_progress = nullptr;

// Says which system call comes next, under the name that its failure would have.
inline void Entering(const char* syscall) {
  if (current_progress == nullptr) return;
  current_progress->syscall.store(syscall, std::memory_order_relaxed);
  current_progress->steps.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace dmloop
