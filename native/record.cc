#include "record.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "small_files.h"

namespace dmloop {

Result<LockedRecord> LockRecord(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file.valid()) return LastFailure("open", path);
  if (flock(file.get(), LOCK_EX | LOCK_NB) < 0) return LastFailure("flock", path);
  struct stat locked;
  struct stat named;
  if (fstat(file.get(), &locked) < 0) return LastFailure("fstat", path);
  // Who had the lock before may have removed the file: then this is a lock on nothing.
  if (stat(path.c_str(), &named) < 0 || locked.st_ino != named.st_ino) {
    return Failure{EAGAIN, "flock", path};
  }
  auto text = ReadAll(file);
  if (!text.ok()) return text.failure();
  return LockedRecord{std::move(file), std::move(text.value())};
}

Result<Nothing> WriteRecord(int fd, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count =
        pwrite(fd, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return LastFailure("pwrite");
    done += static_cast<size_t>(count);
  }
  if (ftruncate(fd, static_cast<off_t>(text.size())) < 0) return LastFailure("ftruncate");
  return Nothing{};
}

Result<Nothing> ReleaseRecord(UniqueFd file, const std::string& path) {
  struct stat record;
  if (fstat(file.get(), &record) < 0) return LastFailure("fstat", path);
  // If it was removed from outside, the path is the next process's.
  if (record.st_size > 0 || record.st_nlink == 0) return Nothing{};
  if (unlink(path.c_str()) < 0 && errno != ENOENT) return LastFailure("unlink", path);
  return Nothing{};
}

}  // namespace dmloop
