#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "direct_io.h"
#include "result.h"

// What makes an image of a file: space allocated, content and zeros written to the disk.
namespace dmloop {

// Memory that JavaScript fills and calls write from. Each of them keeps it, so a call may outlive
// the environment that it was made in.
class WriteBuffer {
 public:
  explicit WriteBuffer(size_t size) : size_(size), bytes_(NewDirectBuffer(size)) {}

  std::byte* data() const { return bytes_.get(); }
  size_t size() const { return size_; }

 private:
  size_t size_;
  DirectBuffer bytes_;
};

// Has an open file written past the page cache, or not (O_DIRECT). EINVAL where the filesystem has
// no direct I/O.
Result<Nothing> SetDirect(int fd, bool direct);

// fallocate(2); `mode` is FALLOC_FL_* of linux/falloc.h.
Result<Nothing> Allocate(int fd, int mode, uint64_t offset, uint64_t length);

Result<Nothing> Truncate(int fd, uint64_t size);

// Writes the first bytes of a buffer. What direct I/O does not take, a last part that is no whole
// block of the disk, goes through the page cache, as does everything that is written afterwards.
Result<Nothing> Write(int fd, const WriteBuffer& buffer, uint64_t length, uint64_t offset);

// Reads up to a multiple of kDirectAlignment; fewer bytes where the file ends.
struct ReadBytes {
  DirectBuffer bytes;
  size_t count = 0;
};
Result<ReadBytes> Read(int fd, size_t length, uint64_t offset);

// Writes zeros: by the disk itself where the kernel and the disk have it
// (FALLOC_FL_WRITE_ZEROES, Linux 6.17), else by writing them.
Result<Nothing> WriteZeros(int fd, uint64_t offset, uint64_t length);

// Renames a file; without `replace`, EEXIST where the new name is taken (renameat2(2)).
Result<Nothing> Rename(const std::string& from, const std::string& to, bool replace);

}  // namespace dmloop
