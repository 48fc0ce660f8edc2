#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "file_facts.h"
#include "filesystem_files.h"
#include "loop.h"
#include "result.h"
#include "unique_fd.h"

namespace dmloop {

// All that is to be known of a file before its extents are asked for: one trip to a worker thread
// instead of a dozen.
struct FileProbe {
  FileFacts facts;
  // The kernel's name of the filesystem's device (sda1, dm-3), if it has a device.
  std::optional<std::string> kernel_name;
  // That device's logical block size and size, in bytes, as sysfs says; 512 and 0 where it does
  // not.
  uint64_t block_size = 512;
  uint64_t device_size = 0;
  // The lines of /proc/self/mountinfo with that device.
  std::string mounts;
  // Of the mount that the file was opened through; see mounts.h.
  std::optional<bool> mount_idmapped;
  // /proc/fs/ext4/NAME/options.
  std::string ext4_options;
  // /proc/swaps.
  std::string swaps;
  // What of the filesystem's files the kernel uses itself.
  std::vector<FilesystemFile> filesystem_files;
  // Every loop device that shows something.
  std::vector<loop::Status> loops;
};

Result<FileProbe> ProbeFile(int fd);

struct OpenedFile {
  UniqueFd fd;
  // Without symbolic links.
  std::string path;
  FileProbe probe;
  // A process has a write lease on the file, which the kernel now breaks. The file is not opened,
  // and its device and inode are all that is known of it.
  bool leased = false;
};

// Opens a regular file for reading, or for writing as well. Anything else is not opened, for to
// open a device or a pipe can do something: then there is no descriptor.
Result<OpenedFile> OpenFile(const std::string& path, bool writable);
// Opens a regular file by its handle, through whatever mount or open file leads to its filesystem,
// which has this device: in this mount namespace, or in that of any process that /proc shows.
// ESTALE when the filesystem has no such file; EPERM when this process may not use handles; ENODEV
// when nothing leads to the filesystem. A lease on the file that leads there counts as one on this.
Result<OpenedFile> OpenFileByHandle(DeviceNumber device, const std::string& handle);
// The UUID of a filesystem, which has this device and is found in the same way; nothing where
// nothing leads to it, or the kernel does not tell.
Result<std::optional<std::string>> FilesystemUuid(DeviceNumber device);

}  // namespace dmloop
