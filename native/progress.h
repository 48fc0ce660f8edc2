#pragma once

#include <atomic>
#include <cstdint>

namespace dmloop {

// The progress of a call, read from another thread. It may be out of date by the time it is read,
// so the order of its parts does not matter.
struct Progress {
  // The last system call; null before the first.
  std::atomic<const char*> syscall = nullptr;
  // The number of system calls: a call that makes more of them is not stuck.
  std::atomic<uint32_t> steps = 0;
};

// That of the call that this thread runs.
inline thread_local Progress* current_progress = nullptr;

// Announces the next system call, by the name that its failure would have.
inline void Entering(const char* syscall) {
  if (current_progress == nullptr) return;
  current_progress->syscall.store(syscall, std::memory_order_relaxed);
  current_progress->steps.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace dmloop
