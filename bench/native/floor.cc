// The least that it can take, in C: what mapFile and planFile are measured against.
//
//   floor plan FILE            reads all extents of a file, and does nothing with them
//   floor map NAME TABLE [FILE]
//                              makes a device of a table in dmsetup's words, which is read and put
//                              into the kernel's form before the clock starts; with a file, reads
//                              its extents before and after the table is loaded
//   floor call                 a system call that does nothing
//   floor touch                the first write to a page of memory
//
// Prints milliseconds.
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "../../native/unique_fd.h"

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

void PrintSince(Clock::time_point start, double times = 1) {
  const std::chrono::duration<double, std::milli> passed = Clock::now() - start;
  std::printf("%.6f\n", passed.count() / times);
}

// Reads all extents of a file, and does nothing with them.
class ExtentReader {
 public:
  explicit ExtentReader(const char* path) : file_(open(path, O_RDONLY)) {
    if (!file_.valid()) Die(path);
  }

  void Read() {
    uint64_t position = 0;
    for (;;) {
      auto* request = reinterpret_cast<struct fiemap*>(buffer_.data());
      *request = {};
      request->fm_start = position;
      request->fm_length = FIEMAP_MAX_OFFSET - position;
      request->fm_extent_count = kBatch;
      if (ioctl(file_.get(), FS_IOC_FIEMAP, request) < 0) Die("FS_IOC_FIEMAP");
      if (request->fm_mapped_extents == 0) return;
      const auto* extents =
          reinterpret_cast<const struct fiemap_extent*>(buffer_.data() + sizeof(struct fiemap));
      const struct fiemap_extent& last = extents[request->fm_mapped_extents - 1];
      position = last.fe_logical + last.fe_length;
      if ((last.fe_flags & FIEMAP_EXTENT_LAST) != 0) return;
    }
  }

 private:
  static constexpr uint32_t kBatch = 4096;

  dmloop::UniqueFd file_;
  std::vector<char> buffer_ =
      std::vector<char>(sizeof(struct fiemap) + kBatch * sizeof(struct fiemap_extent));
};

int Plan(const char* path) {
  ExtentReader extents(path);
  const auto start = Clock::now();
  extents.Read();
  PrintSince(start);
  return 0;
}

struct dm_ioctl Header(const char* name, size_t size, uint32_t targets) {
  struct dm_ioctl header = {};
  header.version[0] = DM_VERSION_MAJOR;
  header.data_size = static_cast<uint32_t>(size);
  header.data_start = sizeof header;
  header.target_count = targets;
  std::strncpy(header.name, name, sizeof header.name - 1);
  return header;
}

// A table in the form that DM_TABLE_LOAD takes, with room for the header before it.
struct Table {
  std::vector<char> bytes = std::vector<char>(sizeof(struct dm_ioctl));
  uint32_t targets = 0;
};

Table ReadTable(const char* path) {
  FILE* in = std::fopen(path, "r");
  if (in == nullptr) Die(path);
  Table table;
  unsigned long long start = 0;
  unsigned long long length = 0;
  char target[16] = {};
  char parameters[64] = {};
  while (std::fscanf(in, "%llu %llu %15s %63[^\n]", &start, &length, target, parameters) == 4) {
    const size_t text = std::strlen(parameters) + 1;
    const size_t size = (sizeof(struct dm_target_spec) + text + 7) / 8 * 8;
    struct dm_target_spec spec = {};
    spec.sector_start = start;
    spec.length = length;
    spec.next = static_cast<uint32_t>(size);
    std::memcpy(spec.target_type, target, sizeof target);
    const size_t at = table.bytes.size();
    table.bytes.resize(at + size);
    std::memcpy(table.bytes.data() + at, &spec, sizeof spec);
    std::memcpy(table.bytes.data() + at + sizeof spec, parameters, text);
    table.targets++;
  }
  std::fclose(in);
  return table;
}

int Map(const char* name, const char* path, const char* file) {
  Table table = ReadTable(path);
  std::optional<ExtentReader> extents;
  if (file != nullptr) extents.emplace(file);
  const dmloop::UniqueFd control(open("/dev/mapper/control", O_RDWR));
  if (!control.valid()) Die("/dev/mapper/control");
  const auto start = Clock::now();
  if (extents) extents->Read();
  struct dm_ioctl create = Header(name, sizeof create, 0);
  if (ioctl(control.get(), DM_DEV_CREATE, &create) < 0) Die("DM_DEV_CREATE");
  const struct dm_ioctl load = Header(name, table.bytes.size(), table.targets);
  std::memcpy(table.bytes.data(), &load, sizeof load);
  if (ioctl(control.get(), DM_TABLE_LOAD, table.bytes.data()) < 0) Die("DM_TABLE_LOAD");
  if (extents) extents->Read();
  struct dm_ioctl resume = Header(name, sizeof resume, 0);
  if (ioctl(control.get(), DM_DEV_SUSPEND, &resume) < 0) Die("DM_DEV_SUSPEND");
  PrintSince(start);
  return 0;
}

int Call() {
  constexpr int kCalls = 1000;
  const auto start = Clock::now();
  for (int i = 0; i < kCalls; i++) syscall(SYS_getppid);
  PrintSince(start, kCalls);
  return 0;
}

int Touch() {
  constexpr size_t kPages = 1024;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t size = kPages * page;
  void* const memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Die("mmap");
  const auto start = Clock::now();
  for (size_t i = 0; i < kPages; i++) static_cast<volatile char*>(memory)[i * page] = 1;
  PrintSince(start, kPages);
  munmap(memory, size);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "plan" && argc == 3) return Plan(argv[2]);
  if (what == "map" && (argc == 4 || argc == 5)) return Map(argv[2], argv[3], argv[4]);
  if (what == "call" && argc == 2) return Call();
  if (what == "touch" && argc == 2) return Touch();
  std::fprintf(stderr,
               "usage: floor plan FILE | floor map NAME TABLE [FILE] | floor call | floor touch\n");
  return 2;
}
