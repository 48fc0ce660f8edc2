#include "udev_cookie.h"

#include <sys/ipc.h>
#include <sys/random.h>
#include <sys/sem.h>

namespace dmloop {

namespace {

// The high half of every cookie's key, and the flag that tells udev's rules that a process waits
// for them: without it 10-dm.rules takes the event for a spurious one (libdevmapper.h).
constexpr uint32_t kCookieMagic = 0x0d4d;
constexpr uint32_t kPrimarySourceFlag = 0x0040;
constexpr int kKeyBits = 16;

}  // namespace

Result<Cookie> CreateCookie() {
  // 65,535 keys are shared by the whole system: one that is taken is skipped.
  constexpr int kAttempts = 1000;
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    uint16_t base = 0;
    if (getrandom(&base, sizeof base, 0) < 0) return LastFailure("getrandom");
    // Key 0 in the low half means "no cookie" to the kernel and to udev.
    if (base == 0) continue;
    const auto key = static_cast<key_t>(kCookieMagic << kKeyBits | base);
    const int semaphore = semget(key, 1, 0600 | IPC_CREAT | IPC_EXCL);
    if (semaphore < 0) {
      if (errno == EEXIST) continue;
      return LastFailure("semget");
    }
    if (semctl(semaphore, 0, SETVAL, 1) < 0) {
      const Failure failure = LastFailure("semctl");
      semctl(semaphore, 0, IPC_RMID);
      return failure;
    }
    return Cookie{semaphore, kPrimarySourceFlag << kKeyBits | base};
  }
  return Failure{ENOSPC, "semget"};
}

Result<int> PendingEvents(int semaphore) {
  const int value = semctl(semaphore, 0, GETVAL);
  if (value < 0) return LastFailure("semctl");
  return value;
}

Result<Nothing> DestroyCookie(int semaphore) {
  if (semctl(semaphore, 0, IPC_RMID) < 0) return LastFailure("semctl");
  return Nothing{};
}

}  // namespace dmloop
