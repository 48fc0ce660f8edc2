#include "image_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <span>

#include "progress.h"

namespace dmloop {

namespace {

// Since Linux 6.17 (linux/falloc.h).
constexpr int kWriteZeroes = 0x80;
// linux/fs.h; musl's headers have no name for it.
constexpr unsigned kNoReplace = 1;

constexpr size_t kZeroStep = size_t{4} << 20;

std::span<const std::byte> Zeros() {
  alignas(kDirectAlignment) static constinit std::array<std::byte, kZeroStep> zeros{};
  return zeros;
}

bool IsDirect(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_DIRECT) != 0;
}

Result<Nothing> WriteAll(int fd, std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    Entering("pwrite");
    const ssize_t count = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const Failure failure = LastFailure("pwrite");
      // Not aligned to what direct I/O takes here: once more, through the page cache.
      if (failure.error != EINVAL || !IsDirect(fd) || !SetDirect(fd, false).ok()) return failure;
      continue;
    }
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return Nothing{};
}

}  // namespace

Result<Nothing> SetDirect(int fd, bool direct) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return LastFailure("F_GETFL");
  const int wanted = direct ? flags | O_DIRECT : flags & ~O_DIRECT;
  if (fcntl(fd, F_SETFL, wanted) < 0) return LastFailure("F_SETFL");
  return Nothing{};
}

Result<Nothing> Allocate(int fd, int mode, uint64_t offset, uint64_t length) {
  for (;;) {
    Entering("fallocate");
    if (fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0) {
      return Nothing{};
    }
    if (errno != EINTR) return LastFailure("fallocate");
  }
}

Result<Nothing> Truncate(int fd, uint64_t size) {
  Entering("ftruncate");
  if (ftruncate(fd, static_cast<off_t>(size)) < 0) return LastFailure("ftruncate");
  return Nothing{};
}

Result<Nothing> Write(int fd, const WriteBuffer& buffer, uint64_t length, uint64_t offset) {
  return WriteAll(fd, {buffer.data(), std::min<size_t>(length, buffer.size())}, offset);
}

Result<ReadBytes> Read(int fd, size_t length, uint64_t offset) {
  ReadBytes read{NewDirectBuffer(length)};
  for (;;) {
    Entering("pread");
    const ssize_t count = pread(fd, read.bytes.get(), length, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return LastFailure("pread");
    read.count = static_cast<size_t>(count);
    return read;
  }
}

Result<Nothing> WriteZeros(int fd, uint64_t offset, uint64_t length) {
  auto allocated = Allocate(fd, kWriteZeroes, offset, length);
  if (allocated.ok()) return allocated;
  // EINVAL is what kernels and filesystems say that do not know the mode at all.
  const int error = allocated.failure().error;
  if (error != EOPNOTSUPP && error != EINVAL && error != ENOSYS) return allocated;
  for (uint64_t done = 0; done < length;) {
    const auto step = Zeros().first(std::min<uint64_t>(kZeroStep, length - done));
    auto written = WriteAll(fd, step, offset + done);
    if (!written.ok()) return written;
    done += step.size();
  }
  return Nothing{};
}

Result<Nothing> Rename(const std::string& from, const std::string& to, bool replace) {
  Entering("renameat2");
  const unsigned flags = replace ? 0 : kNoReplace;
  // By number: older C libraries have no function for it.
  if (syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) < 0) {
    return LastFailure("renameat2");
  }
  return Nothing{};
}

}  // namespace dmloop
