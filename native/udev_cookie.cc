#include "udev_cookie.h"

#include <sys/ipc.h>
#include <sys/random.h>
#include <sys/sem.h>
#include <unistd.h>

#include <array>

namespace dmloop {

namespace {

// The high half of every cookie's key (libdevmapper.h).
constexpr uint32_t kCookieMagic = 0x0d4d;
constexpr int kKeyBits = 16;

// The semaphores of a set; udev knows the first only.
constexpr unsigned short kEvents = 0;
constexpr unsigned short kMaker = 1;
constexpr int kSemaphores = 2;

// Read and write for the owner, as libdm sets it, and two bits without a meaning for semaphores.
constexpr int kMode = 0600 | 0101;

// semctl(2) leaves its declaration to the caller.
union SemaphoreArgument {
  int value;
  struct semid_ds* status;
  struct seminfo* limits;
};

bool IsOurs(const struct semid_ds& set) {
  return static_cast<uint32_t>(set.sem_perm.__key) >> kKeyBits == kCookieMagic &&
         set.sem_nsems == kSemaphores && set.sem_perm.mode == kMode &&
         set.sem_perm.cuid == geteuid();
}

bool IsGone(int error) { return error == EINVAL || error == EIDRM; }

// Claims a set for this process, atomically with the check that no other process has it. EAGAIN
// when its creator has it, or a sweep that found it without one.
Result<Nothing> Occupy(int semaphore, short events) {
  std::array<struct sembuf, 3> steps = {{
      {kMaker, 0, IPC_NOWAIT},
      {kMaker, 1, IPC_NOWAIT | SEM_UNDO},
      {kEvents, events, IPC_NOWAIT},
  }};
  // A step of 0 would wait for the semaphore to be 0.
  const size_t count = events == 0 ? 2 : 3;
  if (semop(semaphore, steps.data(), count) < 0) return LastFailure("semop");
  return Nothing{};
}

}  // namespace

Result<int> SweepCookies() {
  struct seminfo limits;
  SemaphoreArgument argument = {.limits = &limits};
  const int last = semctl(0, 0, SEM_INFO, argument);
  if (last < 0) return LastFailure("semctl");
  int removed = 0;
  for (int index = 0; index <= last; index++) {
    struct semid_ds set;
    argument.status = &set;
    const int semaphore = semctl(index, 0, SEM_STAT, argument);
    // An unused slot, or a set that this process may not read.
    if (semaphore < 0 || !IsOurs(set)) continue;
    // A set that is just being created has no creator yet: it is removed, and the creator takes
    // another.
    if (Occupy(semaphore, 0).ok() && semctl(semaphore, 0, IPC_RMID) == 0) removed++;
  }
  return removed;
}

Result<std::shared_ptr<const Cookie>> CreateCookie() {
  auto swept = SweepCookies();
  if (!swept.ok()) return swept.failure();
  // The whole system shares 65,535 keys: one that is taken is skipped.
  constexpr int kAttempts = 1000;
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    uint16_t base = 0;
    if (getrandom(&base, sizeof base, 0) < 0) return LastFailure("getrandom");
    // Key 0 in the low half means "no cookie" to the kernel and to udev.
    if (base == 0) continue;
    const auto key = static_cast<key_t>(kCookieMagic << kKeyBits | base);
    const int semaphore = semget(key, kSemaphores, kMode | IPC_CREAT | IPC_EXCL);
    if (semaphore < 0) {
      if (errno == EEXIST) continue;
      return LastFailure("semget");
    }
    const auto occupied = Occupy(semaphore, 1);
    if (occupied.ok()) {
      return std::shared_ptr<const Cookie>(std::make_shared<Cookie>(semaphore, base));
    }
    const int error = occupied.failure().error;
    if (error == EAGAIN || IsGone(error)) continue;
    semctl(semaphore, 0, IPC_RMID);
    return occupied.failure();
  }
  return Failure{ENOSPC, "semget"};
}

Result<int> Cookie::PendingEvents() const {
  const int value = semctl(semaphore_, kEvents, GETVAL);
  if (value < 0) return LastFailure("semctl");
  return value;
}

Result<Nothing> Cookie::Destroy() const {
  const int semaphore = semaphore_.exchange(-1);
  if (semaphore < 0) return Nothing{};
  if (semctl(semaphore, 0, IPC_RMID) < 0) return LastFailure("semctl");
  return Nothing{};
}

}  // namespace dmloop
