#pragma once

#include <cstddef>
#include <cstdlib>
#include <exception>
#include <memory>
#include <span>
#include <utility>

namespace dmloop {

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};

// Rows of doubles that grow as they are filled and go to JavaScript without a copy. Not a vector,
// because realloc moves large blocks by their page tables (mremap(2)): no page is copied or touched
// twice, which is most of the cost of a large table.
class PackedRows {
 public:
  PackedRows() = default;
  PackedRows(PackedRows&& other) noexcept
      : data_(std::move(other.data_)),
        size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  PackedRows& operator=(PackedRows&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    return *this;
  }

  template <typename... Numbers>
  void Append(Numbers... numbers) {
    if (capacity_ - size_ < sizeof...(numbers)) Grow();
    ((data_.get()[size_++] = static_cast<double>(numbers)), ...);
  }

  size_t size() const { return size_; }
  std::span<const double> span() const { return {data_.get(), size_}; }

 private:
  void Grow() {
    constexpr size_t kFirst = 64;
    const size_t capacity = capacity_ == 0 ? kFirst : capacity_ * 2;
    void* larger = std::realloc(data_.get(), capacity * sizeof(double));
    // What operator new would come to, with exceptions turned off.
    if (larger == nullptr) std::terminate();
    static_cast<void>(data_.release());
    data_.reset(static_cast<double*>(larger));
    capacity_ = capacity;
  }

  std::unique_ptr<double[], FreeDeleter> data_;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace dmloop
