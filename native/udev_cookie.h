#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "result.h"

// A udev cookie is a set of SysV semaphores. `dmsetup udevcomplete`, run by udev's last dm rule,
// decrements the first one: this is how libdm waits for udev (lvm2's libdm-common.c). Its key's
// low half travels through the kernel in event_nr and comes out as DM_COOKIE in the uevent.
//
// Nobody else removes the cookie of a killed process, so it must tell from the moment it exists
// that it belongs to this library, and whether its creator lives. libdm creates sets of one
// semaphore with mode 0600; these have a second semaphore and a mode of their own, whose additional
// bits grant nothing (semget(2)). The second semaphore is 1 while the creator lives: the kernel
// resets it when the process ends, however it ends (SEM_UNDO, exit_sem in ipc/sem.c).
namespace dmloop {

// Removed with its last owner at the latest.
class Cookie {
 public:
  Cookie(int semaphore, uint16_t base) : semaphore_(semaphore), base_(base) {}
  Cookie(const Cookie&) = delete;
  Cookie& operator=(const Cookie&) = delete;
  ~Cookie() { static_cast<void>(Destroy()); }

  // The low half of its key, which is never 0.
  uint16_t base() const { return base_; }
  // The number of pending events.
  Result<int> PendingEvents() const;
  Result<Nothing> Destroy() const;

 private:
  // Negative once it is destroyed.
  mutable std::atomic<int> semaphore_;
  uint16_t base_;
};

// Creates a cookie with one pending event. Those of dead processes are removed first.
Result<std::shared_ptr<const Cookie>> CreateCookie();
// Removes the cookies of this library whose creators are dead. Returns how many.
Result<int> SweepCookies();

}  // namespace dmloop
