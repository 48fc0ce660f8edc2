#include "image_file.h"
#include "js_values.h"

namespace dmloop {

namespace {

// The buffer to give to `write`, and its bytes for JavaScript to fill.
Napi::Value NewWriteBufferJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto size = SafeInteger(info[0]);
  if (!size || *size == 0 || *size % kDirectAlignment != 0) {
    return Reject(env, "newWriteBuffer(size)");
  }
  auto buffer = std::make_shared<const WriteBuffer>(*size);
  auto bytes = Napi::ArrayBuffer::New(env, buffer->data(), buffer->size(),
                                      [buffer](Napi::Env, void*) { static_cast<void>(buffer); });
  Napi::Object object = Napi::Object::New(env);
  object.Set("bytes", Napi::Uint8Array::New(env, buffer->size(), bytes, 0));
  object.Set("buffer", HandleTo(env, buffer, buffer->size()));
  return object;
}

Napi::Value WriteJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  auto buffer = HandleFrom<WriteBuffer>(info[1]);
  const auto length = SafeInteger(info[2]);
  const auto offset = SafeInteger(info[3]);
  if (!fd || !buffer || !length || !offset) {
    return Reject(info.Env(), "write(fd, buffer, length, offset)");
  }
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd = *fd, buffer, length = *length, offset = *offset] {
        return Write(fd.get(), *buffer, length, offset);
      },
      Undefined);
}

Napi::Value ReadJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  const auto length = SafeInteger(info[1]);
  const auto offset = SafeInteger(info[2]);
  if (!fd || !length || *length % kDirectAlignment != 0 || !offset) {
    return Reject(info.Env(), "read(fd, length, offset)");
  }
  return PromiseWorker<ReadBytes>::Run(
      info.Env(),
      [fd = *fd, length = *length, offset = *offset] { return Read(fd.get(), length, offset); },
      [](Napi::Env env, ReadBytes& read) -> Napi::Value {
        const auto* bytes = reinterpret_cast<const uint8_t*>(read.bytes.get());
        return Napi::Buffer<uint8_t>::Copy(env, bytes, read.count);
      });
}

Napi::Value WriteZerosJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  const auto offset = SafeInteger(info[1]);
  const auto length = SafeInteger(info[2]);
  if (!fd || !offset || !length) return Reject(info.Env(), "writeZeros(fd, offset, length)");
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd = *fd, offset = *offset, length = *length] {
        return WriteZeros(fd.get(), offset, length);
      },
      Undefined);
}

Napi::Value AllocateJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  const auto mode = SafeInteger(info[1]);
  const auto offset = SafeInteger(info[2]);
  const auto length = SafeInteger(info[3]);
  if (!fd || !mode || !offset || !length) {
    return Reject(info.Env(), "allocate(fd, mode, offset, length)");
  }
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd = *fd, mode = static_cast<int>(*mode), offset = *offset, length = *length] {
        return Allocate(fd.get(), mode, offset, length);
      },
      Undefined);
}

Napi::Value TruncateJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  const auto size = SafeInteger(info[1]);
  if (!fd || !size) return Reject(info.Env(), "truncate(fd, size)");
  return PromiseWorker<Nothing>::Run(
      info.Env(), [fd = *fd, size = *size] { return Truncate(fd.get(), size); }, Undefined);
}

Napi::Value RenameJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString() || !info[1].IsString() || !info[2].IsBoolean()) {
    return Reject(info.Env(), "rename(from, to, replace)");
  }
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [from = info[0].As<Napi::String>().Utf8Value(), to = info[1].As<Napi::String>().Utf8Value(),
       replace = info[2].As<Napi::Boolean>().Value()] { return Rename(from, to, replace); },
      Undefined);
}

}  // namespace

void AddImages(Napi::Object& exports) {
  Add(exports, "newWriteBuffer", NewWriteBufferJs);
  Add(exports, "write", WriteJs);
  Add(exports, "read", ReadJs);
  Add(exports, "writeZeros", WriteZerosJs);
  Add(exports, "allocate", AllocateJs);
  Add(exports, "truncate", TruncateJs);
  Add(exports, "rename", RenameJs);
}

}  // namespace dmloop
