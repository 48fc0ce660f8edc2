#include "swap_file.h"

#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/shm.h>
#include <sys/swap.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "direct_io.h"
#include "files.h"
#include "hex.h"
#include "progress.h"

namespace dmloop {

namespace {

// The header (union swap_header, linux/swap.h; mkswap(8)), in the byte order of this machine.
constexpr size_t kVersion = 1024;
constexpr size_t kLastPage = 1028;
constexpr size_t kBadPages = 1032;
constexpr size_t kUuid = 1036;
constexpr size_t kUuidSize = 16;
constexpr size_t kLabel = 1052;
constexpr size_t kLabelSize = 16;
constexpr std::string_view kOwnLabel = "dmloop";
// It ends a page.
constexpr std::string_view kMagic = "SWAPSPACE2";
constexpr std::array<size_t, 3> kPageSizes = {4096, 16384, 65536};
constexpr size_t kHeaderSize = kPageSizes.back();
constexpr uint32_t kPages = 2;

#ifndef MADV_PAGEOUT
// Since Linux 5.4.
constexpr int MADV_PAGEOUT = 21;
#endif

uint32_t Get(std::span<const std::byte> header, size_t offset) {
  uint32_t value = 0;
  std::memcpy(&value, header.data() + offset, sizeof(value));
  return value;
}

void Put(std::span<std::byte> header, size_t offset, uint32_t value) {
  std::memcpy(header.data() + offset, &value, sizeof(value));
}

void Put(std::span<std::byte> header, size_t offset, std::string_view text) {
  std::memcpy(header.data() + offset, text.data(), text.size());
}

std::string LabelOf(std::span<const std::byte> header) {
  std::string label(reinterpret_cast<const char*>(header.data()) + kLabel, kLabelSize);
  label.resize(std::min(label.find('\0'), label.size()));
  return label;
}

size_t PageSize() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

std::string PathOfDescriptor(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

size_t SegmentSize() { return kPages * PageSize(); }

// Pages of shared memory, attached.
class SharedPages {
 public:
  explicit SharedPages(std::byte* address) : address_(address) {}
  SharedPages(SharedPages&& other) noexcept : address_(std::exchange(other.address_, nullptr)) {}
  SharedPages& operator=(SharedPages&&) = delete;
  ~SharedPages() {
    if (address_ != nullptr) shmdt(address_);
  }

  std::byte* address() const { return address_; }
  // What says whose pages they are.
  bool Have(const std::string& text) const {
    return std::memcmp(address_, text.c_str(), text.size() + 1) == 0;
  }
  // A page that is nothing but zeros need not be written.
  void Set(const std::string& text) {
    for (uint32_t page = 0; page < kPages; page++) {
      std::memcpy(address_ + page * PageSize(), text.c_str(), text.size() + 1);
    }
  }

 private:
  std::byte* address_;
};

Result<SharedPages> Attach(int segment) {
  void* const address = shmat(segment, nullptr, 0);
  if (address == reinterpret_cast<void*>(-1)) return LastFailure("shmat");
  return SharedPages(static_cast<std::byte*>(address));
}

std::string TextOf(const std::string& name) { return std::string(kOwnLabel) + " " + name; }

// The key of a segment, from its name (FNV-1a); never IPC_PRIVATE.
key_t KeyOf(const std::string& name) {
  uint32_t key = 2166136261;
  for (const char each : name) key = (key ^ static_cast<unsigned char>(each)) * 16777619;
  return static_cast<key_t>(key | 1);
}

// The segment with this name. Nothing where there is none, or one of somebody else's.
Result<std::optional<int>> FindSegment(const std::string& name) {
  const int segment = shmget(KeyOf(name), 0, 0);
  if (segment < 0 && errno == ENOENT) return std::optional<int>();
  if (segment < 0) return LastFailure("shmget");
  struct shmid_ds status;
  if (shmctl(segment, IPC_STAT, &status) < 0) return LastFailure("shmctl");
  // Another user, who can read the header, may have been first.
  if (status.shm_segsz != SegmentSize() || status.shm_perm.cuid != geteuid()) {
    return std::optional<int>();
  }
  auto pages = Attach(segment);
  if (!pages.ok()) return pages.failure();
  if (!pages.value().Have(TextOf(name))) return std::optional<int>();
  return std::optional(segment);
}

Result<int> MakeSegment(const std::string& name) {
  const int segment = shmget(KeyOf(name), SegmentSize(), IPC_CREAT | IPC_EXCL | 0600);
  if (segment < 0) return LastFailure("shmget");
  return segment;
}

}  // namespace

Result<Nothing> WriteSwapHeader(int fd) {
  const DirectBuffer buffer = NewDirectBuffer(kHeaderSize);
  const std::span<std::byte> header(buffer.get(), kHeaderSize);
  std::fill(header.begin(), header.end(), std::byte{0});
  Put(header, kVersion, 1);
  Put(header, kLastPage, kPages);
  if (getrandom(header.data() + kUuid, kUuidSize, 0) < 0) return LastFailure("getrandom");
  Put(header, kLabel, kOwnLabel);
  for (const size_t size : kPageSizes) Put(header, size - kMagic.size(), kMagic);
  for (size_t done = 0; done < header.size();) {
    Entering("pwrite");
    const ssize_t count =
        pwrite(fd, header.data() + done, header.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return LastFailure("pwrite");
    done += static_cast<size_t>(count);
  }
  return Nothing{};
}

Result<std::optional<std::string>> ReadSwapHeader(int fd) {
  // A page of the file in memory would have to go before the file is released.
  auto direct = Reopen(fd, O_RDONLY | O_DIRECT);
  // Nothing can be swap space on a filesystem without direct I/O.
  if (!direct.ok() && direct.failure().error == EINVAL) return std::optional<std::string>();
  if (!direct.ok()) return direct.failure();
  const size_t size = kPageSizes.front();
  const DirectBuffer buffer = NewDirectBuffer(size);
  const std::span<std::byte> header(buffer.get(), size);
  auto read = ReadAtLeast(direct.value().get(), header, size, 0);
  if (!read.ok() && read.failure().error == EIO) return std::optional<std::string>();
  if (!read.ok()) return read.failure();
  const std::span<std::byte> magic = header.subspan(size - kMagic.size());
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
    return std::optional<std::string>();
  }
  if (LabelOf(header) != kOwnLabel) return std::optional<std::string>();
  // Whoever has made the file may have written something else there: with more pages, memory would
  // be written to the image.
  if (Get(header, kVersion) != 1 || Get(header, kLastPage) != kPages ||
      Get(header, kBadPages) != 0) {
    return std::optional<std::string>();
  }
  return std::optional(HexOf(header.subspan(kUuid, kUuidSize)));
}

Result<Nothing> SwapOn(int fd) {
  // The highest priority: what is swapped out next goes there.
  constexpr int kFlags = SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK;
  Entering("swapon");
  if (swapon(PathOfDescriptor(fd).c_str(), kFlags) < 0) return LastFailure("swapon");
  return Nothing{};
}

Result<Nothing> SwapOff(int fd) {
  Entering("swapoff");
  if (swapoff(PathOfDescriptor(fd).c_str()) < 0) return LastFailure("swapoff");
  return Nothing{};
}

Result<bool> SwapOutPages(const std::string& name) {
  auto found = FindSegment(name);
  if (!found.ok()) return found.failure();
  auto segment = found.value() ? Result<int>(*found.value()) : MakeSegment(name);
  if (!segment.ok()) return segment.failure();
  auto pages = Attach(segment.value());
  if (!pages.ok()) return pages.failure();
  std::byte* const address = pages.value().address();
  pages.value().Set(TextOf(name));
  Entering("madvise");
  if (madvise(address, SegmentSize(), MADV_PAGEOUT) < 0) return LastFailure("madvise");
  std::array<unsigned char, kPages> resident = {};
  if (mincore(address, SegmentSize(), resident.data()) < 0) return LastFailure("mincore");
  return std::none_of(resident.begin(), resident.end(),
                      [](unsigned char page) { return (page & 1) != 0; });
}

Result<Nothing> RemoveSwappedPages(const std::string& name) {
  auto segment = FindSegment(name);
  if (!segment.ok()) return segment.failure();
  if (!segment.value()) return Nothing{};
  if (shmctl(*segment.value(), IPC_RMID, nullptr) < 0) return LastFailure("shmctl");
  return Nothing{};
}

}  // namespace dmloop
