#include "local_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>

#include "unique_fd.h"

namespace dmloop {

namespace {

bool IsAbsent(int error) { return error == ENOENT || error == ENOTDIR; }

}  // namespace

Result<std::optional<LocalSocket>> ProbeSocket(const std::string& path) {
  struct stat file;
  if (lstat(path.c_str(), &file) < 0) {
    if (IsAbsent(errno)) return std::optional<LocalSocket>();
    return LastFailure("lstat", path);
  }
  if (!S_ISSOCK(file.st_mode)) return std::optional<LocalSocket>();
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Failure{ENAMETOOLONG, "connect", path};
  std::copy(path.begin(), path.end(), address.sun_path);
  // A datagram socket, so that there is no connection that a listener would have to accept: the
  // kernel looks the socket up by its file's inode (unix_find_bsd in net/unix/af_unix.c) and
  // refuses when no process has it bound, or else because it is of another type.
  const UniqueFd probe(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!probe.valid()) return LastFailure("socket");
  const auto* name = reinterpret_cast<const struct sockaddr*>(&address);
  if (connect(probe.get(), name, sizeof address) == 0 || errno == EPROTOTYPE) {
    return std::optional(LocalSocket{file.st_uid, true});
  }
  if (errno == ECONNREFUSED) return std::optional(LocalSocket{file.st_uid, false});
  if (IsAbsent(errno)) return std::optional<LocalSocket>();
  return LastFailure("connect", path);
}

}  // namespace dmloop
