#include "extent_list.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

namespace dmloop {

namespace {

constexpr size_t kChunkSize = 16 * 1024;
constexpr uint64_t kSector = 512;

// An extent starts with a byte that says how it goes on. A plain one has neither a hole before it
// nor other flags than the last one, and whole sectors: its low bits count the bytes of the jump.
constexpr uint8_t kJumpBytes = 0x07;
// A plain one that has another length than the last: it follows the jump.
constexpr uint8_t kOwnLength = 0x08;
// Not a plain one: four numbers follow.
constexpr uint8_t kSpelledOut = 0x10;

// The most that one extent takes, and room for whole words to be read and written at its end.
constexpr size_t kLongest = 1 + 4 * sizeof(uint64_t) + sizeof(uint64_t);

uint8_t* PutWord(uint8_t* out, uint64_t number) {
  std::memcpy(out, &number, sizeof number);
  return out + sizeof number;
}

const uint8_t* TakeWord(const uint8_t* in, uint64_t& number) {
  std::memcpy(&number, in, sizeof number);
  return in + sizeof number;
}

// Small differences of either sign as small numbers.
uint64_t Folded(uint64_t difference) { return (difference << 1) ^ (0 - (difference >> 63)); }
uint64_t Unfolded(uint64_t number) { return (number >> 1) ^ (0 - (number & 1)); }

// A difference in bytes may be below zero: its sectors are found with the sign kept.
uint64_t Sectors(uint64_t difference) {
  return static_cast<uint64_t>(static_cast<int64_t>(difference) / static_cast<int64_t>(kSector));
}

uint64_t LogicalEnd(const Extent& extent) { return extent.logical + extent.length; }
uint64_t PhysicalEnd(const Extent& extent) { return extent.physical + extent.length; }

uint8_t* Write(uint8_t* out, const Extent& last, const Extent& extent) {
  const uint64_t gap = extent.logical - LogicalEnd(last);
  const uint64_t jump = extent.physical - PhysicalEnd(last);
  // Addresses are below 2^53, so a jump is below 2^45 sectors and fits with its sign.
  if (gap == 0 && extent.flags == last.flags && (extent.length | jump) % kSector == 0) {
    const uint64_t folded = Folded(Sectors(jump));
    const auto bytes = static_cast<size_t>((std::bit_width(folded) + 7) / 8);
    const bool own_length = extent.length != last.length;
    *out++ = static_cast<uint8_t>(bytes | (own_length ? kOwnLength : 0));
    // The bytes past the number's are those of whatever comes next.
    PutWord(out, folded);
    out += bytes;
    return own_length ? PutWord(out, extent.length) : out;
  }
  *out++ = kSpelledOut;
  return PutWord(PutWord(PutWord(PutWord(out, gap), extent.length), jump), extent.flags);
}

// Turns an extent into the next one.
const uint8_t* Read(const uint8_t* in, Extent& extent) {
  const uint8_t how = *in++;
  const uint64_t end = LogicalEnd(extent);
  const uint64_t place = PhysicalEnd(extent);
  uint64_t jump = 0;
  if ((how & kSpelledOut) == 0) {
    TakeWord(in, jump);
    const unsigned bytes = how & kJumpBytes;
    in += bytes;
    jump &= (uint64_t{1} << (bytes * 8)) - 1;
    if ((how & kOwnLength) != 0) in = TakeWord(in, extent.length);
    extent.logical = end;
    extent.physical = place + Unfolded(jump) * kSector;
    return in;
  }
  uint64_t gap = 0;
  uint64_t flags = 0;
  in = TakeWord(TakeWord(TakeWord(TakeWord(in, gap), extent.length), jump), flags);
  extent.logical = end + gap;
  extent.physical = place + jump;
  extent.flags = static_cast<uint32_t>(flags);
  return in;
}

}  // namespace

void ExtentList::Append(const Extent& extent) {
  if (chunks_.empty() || kChunkSize - chunks_.back().used < kLongest) {
    chunks_.push_back({std::make_unique_for_overwrite<uint8_t[]>(kChunkSize), 0, size_, last_});
  }
  Chunk& chunk = chunks_.back();
  uint8_t* const start = chunk.bytes.get() + chunk.used;
  chunk.used += static_cast<size_t>(Write(start, last_, extent) - start);
  last_ = extent;
  size_++;
}

size_t ExtentList::memory() const { return chunks_.size() * (kChunkSize + sizeof(Chunk)); }

ExtentList::Reader::Reader(const ExtentList& list, size_t index) : list_(list) {
  const auto& chunks = list_.chunks_;
  const auto after =
      std::upper_bound(chunks.begin(), chunks.end(), index,
                       [](size_t wanted, const Chunk& chunk) { return wanted < chunk.first; });
  if (after == chunks.begin()) return;
  chunk_ = static_cast<size_t>(std::prev(after) - chunks.begin());
  last_ = chunks[chunk_].before;
  for (size_t at = chunks[chunk_].first; at < index && Next(); at++) continue;
}

const Extent* ExtentList::Reader::Next() {
  while (next_ == end_) {
    if (chunk_ == list_.chunks_.size()) return nullptr;
    const Chunk& chunk = list_.chunks_[chunk_++];
    next_ = chunk.bytes.get();
    end_ = next_ + chunk.used;
  }
  next_ = Read(next_, last_);
  return &last_;
}

}  // namespace dmloop
