// Makes a file of random bytes in about as many extents as asked for:
//
//   fragment FILE BYTES EXTENTS SEED [BLOCK]
//
// BLOCK is the size of the filesystem's blocks, 4096 unless told.
//
// On a filesystem that looks for the best place, the first call fills it with DIRECTORY/.filler.
// Each call then frees as many separate runs of the filler as the file shall have extents, and
// writes the file into them, run by run in random order, so that the filesystem has nowhere else to
// put it. f2fs puts what is written last at the end of its log: random order is all it takes. vfat
// gives the next free cluster, in the order of the file: there DIRECTORY/.spacer grows in turn with
// the file.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "../../native/unique_fd.h"

namespace {

uint64_t g_block = 4096;

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "fragment: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

// The filler, and how much of it is used up: that is kept in its modification time, in blocks,
// which survives between calls without another file.
class Filler {
 public:
  explicit Filler(const std::string& directory)
      : path_(directory + "/.filler"), fd_(open(path_.c_str(), O_RDWR | O_CREAT, 0600)) {
    if (!fd_.valid()) Die("open filler");
    struct stat stat;
    if (fstat(fd_.get(), &stat) < 0) Die("stat filler");
    if (stat.st_size == 0) {
      Fill();
    } else {
      cursor_ = static_cast<uint64_t>(stat.st_mtim.tv_sec) * g_block;
    }
    if (fstat(fd_.get(), &stat) < 0) Die("stat filler");
    size_ = static_cast<uint64_t>(stat.st_size);
  }

  // Frees a run of blocks and leaves one behind it in use.
  void Free(uint64_t blocks) {
    const uint64_t length = blocks * g_block;
    // Used up: what deleted files have left is in pieces already.
    if (cursor_ + length > size_) return;
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (fallocate(fd_.get(), mode, static_cast<off_t>(cursor_), static_cast<off_t>(length)) < 0) {
      Die("punch");
    }
    cursor_ += length + g_block;
  }

  void Save() {
    const struct timespec time = {static_cast<time_t>(cursor_ / g_block), 0};
    const struct timespec times[2] = {time, time};
    if (futimens(fd_.get(), times) < 0) Die("futimens");
    // What a journal holds back is not free yet.
    if (syncfs(fd_.get()) < 0) Die("syncfs");
  }

 private:
  // Takes everything but a little that the filesystem needs for its own extent trees.
  void Fill() {
    const uint64_t reserve = 512 * g_block;
    uint64_t end = 0;
    for (uint64_t step = uint64_t{1} << 30; step >= g_block;) {
      struct statvfs room;
      if (fstatvfs(fd_.get(), &room) < 0) Die("statvfs");
      const bool fits = room.f_bfree * room.f_frsize > step + reserve;
      if (fits && fallocate(fd_.get(), 0, static_cast<off_t>(end), static_cast<off_t>(step)) == 0) {
        end += step;
      } else {
        step /= 2;
      }
    }
  }

  std::string path_;
  dmloop::UniqueFd fd_;
  uint64_t cursor_ = 0;
  uint64_t size_ = 0;
};

// The file that keeps the next clusters from the one that is being written.
class Spacer {
 public:
  explicit Spacer(const std::string& directory)
      : fd_(open((directory + "/.spacer").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600)) {
    if (!fd_.valid()) Die("open spacer");
  }

  void Grow() {
    const std::vector<char> block(g_block);
    if (write(fd_.get(), block.data(), block.size()) != static_cast<ssize_t>(g_block))
      Die("spacer");
  }

 private:
  dmloop::UniqueFd fd_;
};

void MakeRoom(const std::string& directory, const std::vector<uint64_t>& runs) {
  Filler filler(directory);
  // Both files' extent trees grow, and need blocks of their own: the smaller, the more.
  filler.Free(8 + runs.size() * 4096 / g_block / 50);
  for (const uint64_t run : runs) filler.Free(run);
  filler.Save();
}

// `total` blocks in `count` runs of at least one.
std::vector<uint64_t> RandomRuns(uint64_t total, uint64_t count, std::mt19937_64& random) {
  std::vector<uint64_t> cuts(total - 1);
  std::iota(cuts.begin(), cuts.end(), 1);
  std::vector<uint64_t> chosen;
  std::sample(cuts.begin(), cuts.end(), std::back_inserter(chosen), count - 1, random);
  chosen.push_back(total);
  std::vector<uint64_t> runs;
  uint64_t last = 0;
  for (const uint64_t cut : chosen) {
    runs.push_back(cut - last);
    last = cut;
  }
  return runs;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) {
    std::fprintf(stderr, "usage: fragment FILE BYTES EXTENTS SEED [BLOCK]\n");
    return 2;
  }
  if (argc == 6) g_block = std::strtoull(argv[5], nullptr, 10);
  const std::string path = argv[1];
  const uint64_t bytes = std::strtoull(argv[2], nullptr, 10);
  const uint64_t blocks = (bytes + g_block - 1) / g_block;
  const uint64_t extents = std::clamp<uint64_t>(std::strtoull(argv[3], nullptr, 10), 1, blocks);
  std::mt19937_64 random(std::strtoull(argv[4], nullptr, 10));
  if (bytes == 0) return 2;

  const std::vector<uint64_t> runs = RandomRuns(blocks, extents, random);
  const std::string directory = path.substr(0, path.find_last_of('/'));
  struct statfs filesystem;
  if (statfs(directory.c_str(), &filesystem) < 0) Die("statfs");
  const bool in_order = filesystem.f_type == MSDOS_SUPER_MAGIC;
  std::optional<Spacer> spacer;
  if (in_order) {
    spacer.emplace(directory);
  } else if (filesystem.f_type != F2FS_SUPER_MAGIC) {
    MakeRoom(directory, runs);
  }

  const dmloop::UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
  if (!file.valid()) Die("open file");
  std::vector<std::pair<uint64_t, uint64_t>> chunks;
  uint64_t start = 0;
  for (const uint64_t run : runs) {
    chunks.emplace_back(start * g_block, run * g_block);
    start += run;
  }
  if (!in_order) std::shuffle(chunks.begin(), chunks.end(), random);
  std::vector<uint64_t> data;
  for (const auto& [offset, length] : chunks) {
    data.resize(length / sizeof(uint64_t));
    std::generate(data.begin(), data.end(), std::ref(random));
    const uint64_t size = std::min(length, bytes - offset);
    if (pwrite(file.get(), data.data(), size, static_cast<off_t>(offset)) !=
        static_cast<ssize_t>(size)) {
      Die("pwrite");
    }
    // Written out at once, so that blocks are given in the order of the writes.
    const unsigned flags =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (sync_file_range(file.get(), static_cast<off_t>(offset), static_cast<off_t>(length), flags) <
        0) {
      Die("sync_file_range");
    }
    if (spacer) spacer->Grow();
  }
  if (fsync(file.get()) < 0) Die("fsync");
  return 0;
}
