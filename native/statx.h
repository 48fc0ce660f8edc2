#pragma once

#include <sys/stat.h>

// musl has statx(2) since 1.2.4 only.
#ifndef STATX_BASIC_STATS
#include <linux/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

inline int statx(int directory, const char* path, int flags, unsigned mask, struct statx* result) {
  return static_cast<int>(syscall(SYS_statx, directory, path, flags, mask, result));
}
#endif
