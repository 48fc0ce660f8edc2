#pragma once

#include <memory>
#include <unordered_map>
#include <utility>

#include "unique_fd.h"

namespace dmloop {

// Descriptors that JavaScript holds, by their numbers. It may be stopped at any moment
// (worker.terminate()), and what it holds then is closed with its environment, as Node does with
// descriptors of its own; one that a call uses just then, when the call has returned: its number
// must not become another file's meanwhile.
class HeldDescriptors {
 public:
  // Returns its number.
  int Hold(UniqueFd fd) {
    const int number = fd.get();
    if (number >= 0) held_.emplace(number, std::make_shared<UniqueFd>(std::move(fd)));
    return number;
  }
  // Nothing where JavaScript does not hold it.
  std::shared_ptr<UniqueFd> Find(int number) const {
    const auto found = held_.find(number);
    return found == held_.end() ? nullptr : found->second;
  }
  std::shared_ptr<UniqueFd> Take(int number) {
    auto fd = Find(number);
    held_.erase(number);
    return fd;
  }
  bool empty() const { return held_.empty(); }

 private:
  std::unordered_map<int, std::shared_ptr<UniqueFd>> held_;
};

}  // namespace dmloop
