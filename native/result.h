#pragma once

#include <cerrno>
#include <optional>
#include <utility>
#include <variant>

namespace dmloop {

// Why a system call failed: the errno and the name of the call or ioctl. Native code reports this
// and nothing more; the words for people are TypeScript's.
struct Failure {
  int error = 0;
  const char* syscall = "";
};

inline Failure LastFailure(const char* syscall) { return {errno, syscall}; }

struct Nothing {};

// A value or the failure that prevented it. Nothing here throws: exceptions must not cross
// Node-API.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Failure failure) : state_(failure) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  T& value() { return std::get<T>(state_); }
  const Failure& failure() const { return std::get<Failure>(state_); }

 private:
  std::variant<T, Failure> state_;
};

}  // namespace dmloop
