#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace dmloop {

// One extent, in bytes; flags are FIEMAP_EXTENT_* of linux/fiemap.h.
struct Extent {
  uint64_t logical;
  uint64_t physical;
  uint64_t length;
  uint32_t flags;
};

// Extents in the order of the file, in a few bytes each: a million of them as plain numbers would
// be 32 MB, and to have the kernel find that memory costs more than to read the extents. An extent
// is written as its difference from the one before: most follow at once in the file, have the same
// flags and whole sectors, and are two small numbers.
class ExtentList {
 public:
  // In the order of the file, none over another.
  void Append(const Extent& extent);
  size_t size() const { return size_; }
  // Bytes.
  size_t memory() const;

  // Goes through the list from the extent with an index on.
  class Reader {
   public:
    explicit Reader(const ExtentList& list, size_t index = 0);
    // The next extent, valid until the next call; null at the end.
    const Extent* Next();

   private:
    const ExtentList& list_;
    // The next chunk, and what is left of the one before.
    size_t chunk_ = 0;
    const uint8_t* next_ = nullptr;
    const uint8_t* end_ = nullptr;
    Extent last_{};
  };

 private:
  // Chunks, because a buffer that grows as a whole is found, touched and moved over and over.
  struct Chunk {
    std::unique_ptr<uint8_t[]> bytes;
    size_t used = 0;
    // The index of its first extent, and the extent before that.
    size_t first = 0;
    Extent before{};
  };

  std::vector<Chunk> chunks_;
  size_t size_ = 0;
  Extent last_{};
};

}  // namespace dmloop
