#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "result.h"

// A udev cookie is a set of SysV semaphores, of which `dmsetup udevcomplete`, run by udev's last dm
// rule, counts the first one down: the way libdm waits for udev (lvm2's libdm-common.c). Its key's
// low half travels through the kernel in event_nr and comes out as DM_COOKIE in the uevent.
//
// Nobody else would ever remove the cookie of a killed process, so ours say themselves that they
// are ours, from the moment they are there, and whether their maker lives. libdm makes sets of one
// semaphore with mode 0600; ours have a second semaphore and a mode of their own, whose additional
// bits give nobody anything (semget(2)). The second semaphore is 1 while the maker lives: the
// kernel takes that back when a process ends, however it ends (SEM_UNDO, exit_sem in ipc/sem.c).
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
  // How many events are still awaited.
  Result<int> PendingEvents() const;
  Result<Nothing> Destroy() const;

 private:
  // Negative once it is destroyed.
  mutable std::atomic<int> semaphore_;
  uint16_t base_;
};

// A new cookie with one event awaited. Those of dead processes are removed first.
Result<std::shared_ptr<const Cookie>> CreateCookie();
// Removes the cookies of ours whose makers are dead; how many they were.
Result<int> SweepCookies();

}  // namespace dmloop
