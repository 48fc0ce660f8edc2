// What Debian 12's compiler would have the addon ask of the system it runs on and only newer ones
// have, in terms of what older ones have. It is in the prebuilt binaries (native/prebuilds.mjs),
// which load wherever Node 20's own do: from glibc 2.28 on, and beside GCC 8's libstdc++.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <memory>
#include <typeinfo>

namespace std {

// In libstdc++ since GCC 9. Shared pointers of this addon find out by an address first.
bool _Sp_make_shared_tag::_S_eq(const type_info&) noexcept { return false; }

// In libstdc++ since GCC 11, which has made it of this one.
void __throw_bad_array_new_length() { __throw_bad_alloc(); }

}  // namespace std

#ifdef __GLIBC__

// For the addon, and nobody else in the process.
#define OURS extern "C" [[gnu::visibility("hidden")]]

// In glibc since 2.32: whether there has been one thread only. With Node there never has.
OURS char __libc_single_threaded;
char __libc_single_threaded = 0;

// In glibc since 2.33; before, the headers made them of others.
OURS int fstat64(int fd, struct stat64* result) noexcept {
  return static_cast<int>(syscall(SYS_fstat, fd, result));
}

OURS int stat64(const char* path, struct stat64* result) noexcept {
  return static_cast<int>(syscall(SYS_newfstatat, AT_FDCWD, path, result, 0));
}

OURS int lstat64(const char* path, struct stat64* result) noexcept {
  return static_cast<int>(syscall(SYS_newfstatat, AT_FDCWD, path, result, AT_SYMLINK_NOFOLLOW));
}

OURS int mknod(const char* path, mode_t mode, dev_t device) noexcept {
  return static_cast<int>(syscall(SYS_mknodat, AT_FDCWD, path, mode, device));
}

// In glibc since 2.30. A wait that ends too early or too late, since somebody has set the clock, is
// one that its caller judges by its own clock.
OURS int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                                const timespec* end) {
  timespec now;
  timespec until;
  clock_gettime(clock, &now);
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += end->tv_sec - now.tv_sec;
  until.tv_nsec += end->tv_nsec - now.tv_nsec;
  constexpr long kSecond = 1'000'000'000;
  if (until.tv_nsec < 0) {
    until.tv_sec -= 1;
    until.tv_nsec += kSecond;
  } else if (until.tv_nsec >= kSecond) {
    until.tv_sec += 1;
    until.tv_nsec -= kSecond;
  }
  return pthread_cond_timedwait(condition, mutex, &until);
}

// They moved to another library in 2.34, one of them in 2.32, and with it to that version; the
// first one is there too.
#ifdef __aarch64__
#define FIRST_VERSION(name, version) __asm__(".symver first_" name "," name "@GLIBC_2.17")
#else
#define FIRST_VERSION(name, version) __asm__(".symver first_" name "," name "@GLIBC_" version)
#endif

FIRST_VERSION("pthread_create", "2.2.5");
FIRST_VERSION("pthread_attr_setstacksize", "2.2.5");
FIRST_VERSION("pthread_setname_np", "2.12");
FIRST_VERSION("pthread_sigmask", "2.2.5");

extern "C" int first_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*),
                                    void*) noexcept;
extern "C" int first_pthread_attr_setstacksize(pthread_attr_t*, size_t) noexcept;
extern "C" int first_pthread_setname_np(pthread_t, const char*) noexcept;
extern "C" int first_pthread_sigmask(int, const sigset_t*, sigset_t*) noexcept;

OURS int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                        void* argument) noexcept {
  return first_pthread_create(thread, attributes, start, argument);
}

OURS int pthread_attr_setstacksize(pthread_attr_t* attributes, size_t size) noexcept {
  return first_pthread_attr_setstacksize(attributes, size);
}

OURS int pthread_setname_np(pthread_t thread, const char* name) noexcept {
  return first_pthread_setname_np(thread, name);
}

OURS int pthread_sigmask(int how, const sigset_t* signals, sigset_t* before) noexcept {
  return first_pthread_sigmask(how, signals, before);
}

#endif
