#pragma once

#include <napi.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device_number.h"
#include "packed_rows.h"
#include "promise_worker.h"
#include "result.h"
#include "safe_integer.h"
#include "unique_fd.h"

// Values between native code and JavaScript: arguments in, facts out.
// lib/kernel/native.ts holds the types and is the only caller; what it passes has been checked
// already, so a wrong argument is a bug of this library and throws a plain TypeError.
namespace dmloop {

inline Napi::Value Reject(Napi::Env env, const char* message) {
  Napi::TypeError::New(env, message).ThrowAsJavaScriptException();
  return env.Undefined();
}

inline std::optional<uint64_t> SafeInteger(const Napi::Value& value) {
  if (!value.IsNumber()) return std::nullopt;
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= 0 && number <= static_cast<double>(kMaxSafeInteger)) ||
      std::floor(number) != number) {
    return std::nullopt;
  }
  return static_cast<uint64_t>(number);
}

// A size as it is: a BigInt where a Number would be rounded.
inline Napi::Value ExactNumber(Napi::Env env, uint64_t value) {
  if (value > kMaxSafeInteger) return Napi::BigInt::New(env, value);
  return Napi::Number::New(env, static_cast<double>(value));
}

inline Napi::Object DeviceNumberObject(Napi::Env env, DeviceNumber number) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("major", number.major);
  object.Set("minor", number.minor);
  return object;
}

// From two arguments.
inline std::optional<DeviceNumber> DeviceNumberFrom(const Napi::Value& first,
                                                    const Napi::Value& second) {
  const auto major = SafeInteger(first);
  const auto minor = SafeInteger(second);
  if (!major || !minor) return std::nullopt;
  return DeviceNumber{static_cast<uint32_t>(*major), static_cast<uint32_t>(*minor)};
}

// Rows that JavaScript has as an array, without a copy; see PackedArray.
using SharedRows = std::shared_ptr<const PackedRows>;

// Numbers of JavaScript's. A call that works with them may outlive the environment that they belong
// to: they are copied, or shared if they came from here.
class PackedNumbers {
 public:
  static std::shared_ptr<const PackedNumbers> From(const Napi::Value& value) {
    if (!value.IsTypedArray() ||
        value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
      return nullptr;
    }
    return std::make_shared<const PackedNumbers>(value.As<Napi::Float64Array>());
  }
  explicit PackedNumbers(Napi::Float64Array array) : shared_(SharedBy(array)) {
    if (!shared_) copied_.assign(array.Data(), array.Data() + array.ElementLength());
  }

  std::span<const double> rows() const {
    return shared_ ? shared_->span() : std::span<const double>(copied_);
  }

 private:
  static SharedRows SharedBy(const Napi::Float64Array& array);

  SharedRows shared_;
  std::vector<double> copied_;
};

// What C++ keeps and JavaScript only holds: for each type its own kind, so that one is not taken
// for another.
template <typename T>
inline constexpr char kKindOf = 0;

struct Handle {
  const char* kind;
  std::shared_ptr<const void> value;
};

template <typename T>
Napi::Value HandleTo(Napi::Env env, std::shared_ptr<const T> value, size_t memory) {
  const auto drop = [memory](Napi::Env env, Handle* handle) {
    Napi::MemoryManagement::AdjustExternalMemory(env, -static_cast<int64_t>(memory));
    std::unique_ptr<Handle>{handle}.reset();
  };
  auto handle = std::make_unique<Handle>(Handle{&kKindOf<T>, std::move(value)});
  Napi::Value external = Napi::External<Handle>::New(env, handle.get(), drop);
  // In an environment that is being ended nothing can be made any more.
  if (external.IsEmpty()) return external;
  static_cast<void>(handle.release());
  // Else a garbage collector that sees only the handle would be in no hurry.
  Napi::MemoryManagement::AdjustExternalMemory(env, static_cast<int64_t>(memory));
  return external;
}

template <typename T>
std::shared_ptr<const T> HandleFrom(const Napi::Value& value) {
  if (!value.IsExternal()) return nullptr;
  const Handle* handle = value.As<Napi::External<Handle>>().Data();
  if (handle->kind != &kKindOf<T>) return nullptr;
  return std::static_pointer_cast<const T>(handle->value);
}

// Of the arrays that PackedArray has made.
inline constexpr napi_type_tag kSharedRowsTag = {0x8d1b6a3cf0e94752, 0xa2c47e915b3d806f};

// Rows as an array over the same memory, which is shared with the calls that are given the array:
// nobody writes to it.
inline Napi::Value PackedArray(Napi::Env env, PackedRows& rows) {
  const size_t count = rows.size();
  if (count == 0) return Napi::Float64Array::New(env, 0);
  const auto drop = [](Napi::Env, void*, SharedRows* owner) {
    std::unique_ptr<SharedRows>{owner}.reset();
  };
  const auto shared = std::make_shared<const PackedRows>(std::move(rows));
  auto owner = std::make_unique<SharedRows>(shared);
  auto* const data = const_cast<double*>(shared->span().data());
  auto buffer = Napi::ArrayBuffer::New(env, data, count * sizeof(double), drop, owner.get());
  if (buffer.IsEmpty()) return buffer;
  SharedRows* const owned = owner.release();
  auto array = Napi::Float64Array::New(env, count, buffer, 0);
  // The buffer lives for as long as its array, and so does what is wrapped.
  if (!array.IsEmpty() && napi_wrap(env, array, owned, nullptr, nullptr, nullptr) == napi_ok) {
    array.TypeTag(&kSharedRowsTag);
  }
  return array;
}

inline SharedRows PackedNumbers::SharedBy(const Napi::Float64Array& array) {
  if (!array.CheckTypeTag(&kSharedRowsTag)) return nullptr;
  void* owner = nullptr;
  if (napi_unwrap(array.Env(), array, &owner) != napi_ok) return nullptr;
  return *static_cast<SharedRows*>(owner);
}

inline std::optional<std::vector<std::string>> StringsFrom(const Napi::Value& value) {
  if (!value.IsArray()) return std::nullopt;
  const auto array = value.As<Napi::Array>();
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array.Get(i);
    if (!item.IsString()) return std::nullopt;
    strings.push_back(item.As<Napi::String>().Utf8Value());
  }
  return strings;
}

// A JavaScript array of what each item comes to.
template <typename Items, typename Convert>
Napi::Array ArrayOf(Napi::Env env, Items& items, Convert convert) {
  Napi::Array array = Napi::Array::New(env, items.size());
  uint32_t index = 0;
  for (auto& item : items) array.Set(index++, convert(env, item));
  return array;
}

inline Napi::Value Strings(Napi::Env env, const std::vector<std::string>& strings) {
  return ArrayOf(env, strings, [](Napi::Env, const std::string& text) { return text; });
}

// A descriptor that a call uses. If JavaScript holds it, it stays open until the call returns.
class UsedDescriptor {
 public:
  static std::optional<UsedDescriptor> From(const Napi::Value& value) {
    const auto number = SafeInteger(value);
    if (!number) return std::nullopt;
    const auto fd = static_cast<int>(*number);
    return UsedDescriptor(fd, Environment::Of(value.Env()).descriptors().Find(fd));
  }
  int get() const { return number_; }

 private:
  UsedDescriptor(int number, std::shared_ptr<const UniqueFd> held)
      : number_(number), held_(std::move(held)) {}

  int number_;
  std::shared_ptr<const UniqueFd> held_;
};

// Gives a descriptor to JavaScript to hold, by its number.
inline Napi::Value HeldNumber(Napi::Env env, UniqueFd& fd) {
  return Napi::Number::New(env, Environment::Of(env).descriptors().Hold(std::move(fd)));
}

// Takes it back; nothing where JavaScript does not hold it.
inline std::shared_ptr<UniqueFd> TakeDescriptor(const Napi::Value& value) {
  const auto number = SafeInteger(value);
  if (!number) return nullptr;
  return Environment::Of(value.Env()).descriptors().Take(static_cast<int>(*number));
}

inline Napi::Value Undefined(Napi::Env env, Nothing&) { return env.Undefined(); }

inline Napi::Value NumberOrMinusOne(Napi::Env env, std::optional<uint64_t>& position) {
  return Napi::Number::New(env, position ? static_cast<double>(*position) : -1);
}

inline Napi::Value StringOrUndefined(Napi::Env env, const std::optional<std::string>& text) {
  if (!text) return env.Undefined();
  return Napi::String::New(env, *text);
}

inline Napi::Value BooleanOrUndefined(Napi::Env env, std::optional<bool> value) {
  if (!value) return env.Undefined();
  return Napi::Boolean::New(env, *value);
}

// --- the rooms: each adds its functions -------------------------------------------------------

inline void Add(Napi::Object& exports, const char* name,
                Napi::Value (*function)(const Napi::CallbackInfo&)) {
  exports.Set(name, Napi::Function::New(exports.Env(), function, name));
}

void AddCalls(Napi::Object& exports);
void AddExtents(Napi::Object& exports);
void AddFiles(Napi::Object& exports);
void AddDevices(Napi::Object& exports);
void AddImages(Napi::Object& exports);
void AddSegments(Napi::Object& exports);
void AddDeviceMapper(Napi::Object& exports);
void AddLoop(Napi::Object& exports);
void AddUdev(Napi::Object& exports);

}  // namespace dmloop
