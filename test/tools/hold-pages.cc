// Keeps the pages of a file in memory, as user 65534 or as root:
//
//   hold-pages HOW FILE [root]
//
// HOW is `shared` or `private` for a mapping of which every page is read, `written` for a private
// one whose second page is written to as well, `tail` for a shared one of which the last page alone
// is read, `locked` for one that is populated and locked,
// `spliced` for a pipe that the first 64 KiB were spliced into, and `vmspliced` for one that they
// came into from a mapping that is gone. The file is closed then, and `ready` is printed. For each
// line of standard input the first byte is printed that the mapping shows. With its end the program
// ends.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>

#include "../../native/unique_fd.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPipe = 64 << 10;
constexpr uid_t kNobody = 65534;

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "hold-pages: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

volatile char* Map(int fd, size_t size, int protection, int flags) {
  void* start = mmap(nullptr, size, protection, flags, fd, 0);
  if (start == MAP_FAILED) Die("mmap");
  return static_cast<volatile char*>(start);
}

void ReadEveryPage(volatile char* start, size_t size) {
  for (size_t at = 0; at < size; at += kPage) static_cast<void>(start[at]);
}

struct Pipe {
  dmloop::UniqueFd out;
  dmloop::UniqueFd in;
};

Pipe NewPipe() {
  int ends[2];
  if (pipe(ends) < 0) Die("pipe");
  return {dmloop::UniqueFd(ends[0]), dmloop::UniqueFd(ends[1])};
}

}  // namespace

int main(int count, char** words) {
  if (count != 3 && count != 4) {
    std::fprintf(stderr, "usage: hold-pages HOW FILE [root]\n");
    return 2;
  }
  const std::string how = words[1];
  if (count == 3 && (setgid(kNobody) < 0 || setuid(kNobody) < 0)) Die("setuid");
  dmloop::UniqueFd file(open(words[2], O_RDONLY));
  if (!file.valid()) Die("open");
  struct stat stat;
  if (fstat(file.get(), &stat) < 0) Die("stat");
  const auto size = static_cast<size_t>(stat.st_size);

  volatile char* shown = nullptr;
  const Pipe pipe = NewPipe();
  if (how == "shared" || how == "private") {
    shown = Map(file.get(), size, PROT_READ, how == "shared" ? MAP_SHARED : MAP_PRIVATE);
    ReadEveryPage(shown, size);
  } else if (how == "written") {
    shown = Map(file.get(), size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    ReadEveryPage(shown, size);
    shown[kPage] = 'P';
  } else if (how == "tail") {
    shown = Map(file.get(), size, PROT_READ, MAP_SHARED) + (size - 1) / kPage * kPage;
    static_cast<void>(*shown);
  } else if (how == "locked") {
    shown = Map(file.get(), size, PROT_READ, MAP_SHARED | MAP_POPULATE);
    if (mlock(const_cast<char*>(shown), size) < 0) Die("mlock");
  } else if (how == "spliced") {
    if (splice(file.get(), nullptr, pipe.in.get(), nullptr, kPipe, 0) < 0) Die("splice");
  } else if (how == "vmspliced") {
    volatile char* start = Map(file.get(), size, PROT_READ, MAP_SHARED);
    const iovec range{const_cast<char*>(start), kPipe};
    if (vmsplice(pipe.in.get(), &range, 1, 0) < 0) Die("vmsplice");
    munmap(const_cast<char*>(start), size);
  } else {
    std::fprintf(stderr, "hold-pages: how is %s?\n", how.c_str());
    return 2;
  }
  close(file.release());
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << (shown == nullptr ? '-' : *shown) << std::endl;
  }
}
