#pragma once

#include <cerrno>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace dmloop {

// Why a system call failed: the errno, the name of the call or ioctl, and the path if it was given
// one that the caller does not know. Native code reports this and nothing more; the words for
// people are TypeScript's.
struct Failure {
  int error = 0;
  const char* syscall = "";
  std::string path{};
};

inline Failure LastFailure(const char* syscall, std::string path = {}) {
  return {errno, syscall, std::move(path)};
}

struct Nothing {};

// A value or the failure that prevented it. Nothing here throws: exceptions must not cross
// Node-API.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Failure failure) : state_(std::move(failure)) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  T& value() { return std::get<T>(state_); }
  const Failure& failure() const { return std::get<Failure>(state_); }

 private:
  std::variant<T, Failure> state_;
};

}  // namespace dmloop
