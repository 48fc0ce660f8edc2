#include "filesystem_files.h"

#include <fcntl.h>
#include <linux/dqblk_xfs.h>
#include <linux/magic.h>
#include <sys/quota.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>

#include "small_files.h"
#include "unique_fd.h"

namespace dmloop {

namespace {

constexpr const char* kJournal = "the journal";
constexpr const char* kUserQuota = "the quota file of users";
constexpr const char* kGroupQuota = "the quota file of groups";
constexpr const char* kProjectQuota = "the quota file of projects";
constexpr const char* kOrphans = "the list of orphans";

// The quota files in use. Whoever turns quotas on names a file by its path, and the kernel goes on
// with its inode. To ask for this state takes no privilege (check_quotactl_permission in
// fs/quota/quota.c).
void AddQuotaFiles(int fd, const std::string& device, std::vector<FilesystemFile>& files) {
  struct fs_quota_statv state = {};
  state.qs_version = FS_QSTATV_VERSION1;
  const int command = QCMD(Q_XGETQSTATV, USRQUOTA);
  long answer = -1;
#ifdef SYS_quotactl_fd
  answer = syscall(SYS_quotactl_fd, fd, command, 0, &state);
#else
  static_cast<void>(fd);
  errno = ENOSYS;
#endif
  // Before Linux 5.14 a filesystem is named by its device. A filesystem without quotas has the same
  // error.
  if (answer < 0 && errno == ENOSYS) {
    answer = quotactl(command, device.c_str(), 0, reinterpret_cast<char*>(&state));
  }
  if (answer < 0) return;
  files.push_back({kUserQuota, state.qs_uquota.qfs_ino});
  files.push_back({kGroupQuota, state.qs_gquota.qfs_ino});
  files.push_back({kProjectQuota, state.qs_pquota.qfs_ino});
}

// The journal in use, without privileges: jbd2 gives each a folder DEVICE-INODE
// (jbd2_journal_init_inode in fs/jbd2/journal.c).
void AddOpenJournal(const std::string& kernel_name, std::vector<FilesystemFile>& files) {
  const std::string prefix = kernel_name + "-";
  for (const std::string& name : NamesIn("/proc/fs/jbd2")) {
    if (!name.starts_with(prefix)) continue;
    uint64_t inode = 0;
    const char* const end = name.data() + name.size();
    const auto number = std::from_chars(name.data() + prefix.size(), end, inode);
    if (number.ec == std::errc{} && number.ptr == end) files.push_back({kJournal, inode});
  }
}

// What the superblock of an ext2, ext3 or ext4 names (struct ext4_super_block in fs/ext4/ext4.h):
// also what the next mount will use. The kernel keeps the block in the device's own cache, so this
// is what it has in memory.
constexpr off_t kSuperblock = 1024;
constexpr size_t kMagic = 0x38;
constexpr struct {
  size_t at;
  const char* role;
} kInodes[] = {
    {0xe0, kJournal},       {0x240, kUserQuota}, {0x244, kGroupQuota},
    {0x26c, kProjectQuota}, {0x280, kOrphans},
};

template <size_t bytes, size_t size>
uint64_t LittleEndian(const std::array<unsigned char, size>& block, size_t at) {
  uint64_t number = 0;
  for (size_t i = bytes; i-- > 0;) number = number << 8 | block[at + i];
  return number;
}

// Opens a device for reading; invalid where this process may not, or where the path leads
// elsewhere: a container has nodes of its own, or none.
UniqueFd OpenDevice(const std::string& path, const FileFacts& facts) {
  UniqueFd device(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat node;
  if (!device.valid() || fstat(device.get(), &node) < 0 || !S_ISBLK(node.st_mode) ||
      DeviceNumber{major(node.st_rdev), minor(node.st_rdev)} != facts.device) {
    return UniqueFd();
  }
  return device;
}

std::optional<Failure> AddNamed(const std::string& path, const FileFacts& facts,
                                std::vector<FilesystemFile>& files) {
  const UniqueFd device = OpenDevice(path, facts);
  if (!device.valid()) return std::nullopt;
  std::array<unsigned char, 1024> block;
  const ssize_t size = pread(device.get(), block.data(), block.size(), kSuperblock);
  if (size < 0) return LastFailure("pread", path);
  if (static_cast<size_t>(size) < block.size()) return std::nullopt;
  if (LittleEndian<2>(block, kMagic) != EXT4_SUPER_MAGIC) return std::nullopt;
  for (const auto& [at, role] : kInodes) files.push_back({role, LittleEndian<4>(block, at)});
  return std::nullopt;
}

}  // namespace

Result<std::vector<FilesystemFile>> FilesystemFiles(int fd, const FileFacts& facts,
                                                    const std::string& kernel_name) {
  std::vector<FilesystemFile> files;
  std::string device = "/dev/" + kernel_name;
  // A device in a folder of its own (cciss/c0d0) has an exclamation mark in sysfs.
  std::replace(device.begin(), device.end(), '!', '/');
  AddQuotaFiles(fd, device, files);
  if (facts.filesystem_magic == EXT4_SUPER_MAGIC) {
    AddOpenJournal(kernel_name, files);
    if (auto failure = AddNamed(device, facts, files)) return *failure;
  }
  // No file has inode 0: there is none of the kind.
  std::erase_if(files, [](const FilesystemFile& file) { return file.inode == 0; });
  return files;
}

}  // namespace dmloop
