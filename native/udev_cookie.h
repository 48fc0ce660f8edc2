#pragma once

#include <cstdint>

#include "result.h"

// A udev cookie is a SysV semaphore that `dmsetup udevcomplete`, run by udev's last dm rule, counts
// down: the way libdm waits for udev (lvm2's libdm-common.c). Its key's low half travels through
// the kernel in event_nr and comes out as DM_COOKIE in the uevent.
namespace dmloop {

struct Cookie {
  int semaphore;
  // What goes into event_nr: the key's low half and the udev flags above it.
  uint32_t value;
};

// A new cookie with one event awaited.
Result<Cookie> CreateCookie();
// How many events are still awaited.
Result<int> PendingEvents(int semaphore);
Result<Nothing> DestroyCookie(int semaphore);

}  // namespace dmloop
