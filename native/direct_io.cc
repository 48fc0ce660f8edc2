#include "direct_io.h"

#include <unistd.h>

#include <cstdlib>
#include <exception>

#include "progress.h"

namespace dmloop {

DirectBuffer NewDirectBuffer(size_t size) {
  DirectBuffer buffer(static_cast<std::byte*>(std::aligned_alloc(kDirectAlignment, size)));
  if (!buffer) std::terminate();
  return buffer;
}

Result<Nothing> ReadAtLeast(int fd, std::span<std::byte> into, uint64_t wanted, uint64_t offset) {
  for (uint64_t done = 0; done < wanted;) {
    const auto rest = into.subspan(done);
    Entering("pread");
    const ssize_t count = pread(fd, rest.data(), rest.size(), static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return LastFailure("pread");
    if (count == 0) return Failure{EIO, "pread"};
    done += static_cast<uint64_t>(count);
  }
  return Nothing{};
}

}  // namespace dmloop
