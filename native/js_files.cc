#include "btrfs.h"
#include "compare.h"
#include "file_facts.h"
#include "files.h"
#include "guard.h"
#include "image_file.h"
#include "journal.h"
#include "js_loop.h"
#include "js_values.h"
#include "page_cache.h"
#include "probe.h"
#include "record.h"
#include "small_files.h"
#include "swap_file.h"

namespace dmloop {

namespace {

Napi::Value FactsValue(Napi::Env env, FileFacts& facts) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("mode", facts.mode);
  object.Set("size", ExactNumber(env, facts.size));
  // Inode numbers are names, not quantities: 64 bits of them must stay apart.
  object.Set("inode", std::to_string(facts.inode));
  object.Set("major", facts.number.major);
  object.Set("minor", facts.number.minor);
  object.Set("filesystem", DeviceNumberObject(env, facts.filesystem));
  object.Set("device", DeviceNumberObject(env, facts.device));
  object.Set("deviceCount", static_cast<double>(facts.device_count));
  object.Set("attributes", static_cast<double>(facts.attributes & facts.attributes_mask));
  object.Set("filesystemMagic", static_cast<double>(facts.filesystem_magic));
  object.Set("mountReadOnly", facts.mount_read_only);
  object.Set("directIo", BooleanOrUndefined(env, facts.direct_io));
  object.Set("filesystemSize", ExactNumber(env, facts.filesystem_size));
  object.Set("inodeFlags", facts.inode_flags);
  object.Set("extendedFlags", facts.extended_flags);
  object.Set("uid", facts.uid);
  object.Set("links", facts.links);
  object.Set("handle", StringOrUndefined(env, facts.handle));
  object.Set("mark", StringOrUndefined(env, facts.mark));
  return object;
}

Napi::Object FilesystemFileObject(Napi::Env env, const FilesystemFile& file) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("role", file.role);
  object.Set("inode", std::to_string(file.inode));
  return object;
}

Napi::Value ProbeValue(Napi::Env env, FileProbe& probe) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("facts", FactsValue(env, probe.facts));
  object.Set("kernelName", StringOrUndefined(env, probe.kernel_name));
  object.Set("blockSize", static_cast<double>(probe.block_size));
  object.Set("deviceSize", ExactNumber(env, probe.device_size));
  object.Set("mounts", probe.mounts);
  object.Set("mountIdmapped", BooleanOrUndefined(env, probe.mount_idmapped));
  object.Set("ext4Options", probe.ext4_options);
  object.Set("swaps", probe.swaps);
  object.Set("filesystemFiles", ArrayOf(env, probe.filesystem_files, FilesystemFileObject));
  object.Set("loops", LoopsValue(env, probe.loops));
  return object;
}

Napi::Value OpenedValue(Napi::Env env, OpenedFile& opened) {
  const Napi::Value fd = HeldNumber(env, opened.fd);
  Napi::Object object = Napi::Object::New(env);
  object.Set("fd", fd);
  object.Set("path", opened.path);
  object.Set("leased", opened.leased);
  object.Set("probe", ProbeValue(env, opened.probe));
  return object;
}

Napi::Value OpenFileJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString() || !info[1].IsBoolean()) {
    return Reject(info.Env(), "openFile(path, writable)");
  }
  return PromiseWorker<OpenedFile>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(),
       writable = info[1].As<Napi::Boolean>().Value()] { return OpenFile(path, writable); },
      OpenedValue);
}

Napi::Value OpenFileByHandleJs(const Napi::CallbackInfo& info) {
  const auto device = DeviceNumberFrom(info[0], info[1]);
  if (!device || !info[2].IsString()) {
    return Reject(info.Env(), "openFileByHandle(major, minor, handle)");
  }
  return PromiseWorker<OpenedFile>::Run(
      info.Env(),
      [device = *device, handle = info[2].As<Napi::String>().Utf8Value()] {
        return OpenFileByHandle(device, handle);
      },
      OpenedValue);
}

Napi::Value OpenJs(const Napi::CallbackInfo& info) {
  const auto flags = SafeInteger(info[1]);
  if (!info[0].IsString() || !flags) return Reject(info.Env(), "open(path, flags)");
  return PromiseWorker<UniqueFd>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(), flags = static_cast<int>(*flags)] {
        return Open(path, flags);
      },
      HeldNumber);
}

Napi::Value IdentifyJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "identify(path)");
  return PromiseWorker<PathFacts>::Run(
      info.Env(), [path = info[0].As<Napi::String>().Utf8Value()] { return Identify(path); },
      [](Napi::Env env, PathFacts& facts) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("isBlockDevice", facts.is_block_device);
        object.Set("fsMajor", facts.device_major);
        object.Set("fsMinor", facts.device_minor);
        object.Set("inode", std::to_string(facts.inode));
        object.Set("major", facts.major);
        object.Set("minor", facts.minor);
        return object;
      });
}

Napi::Value ProbeJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  if (!fd) return Reject(info.Env(), "probe(fd)");
  return PromiseWorker<FileProbe>::Run(
      info.Env(), [fd = *fd] { return ProbeFile(fd.get()); }, ProbeValue);
}

Napi::Value InspectJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  if (!fd) return Reject(info.Env(), "inspect(fd)");
  return PromiseWorker<FileFacts>::Run(
      info.Env(), [fd = *fd] { return Inspect(fd.get()); }, FactsValue);
}

Napi::Value ReadFirstJs(const Napi::CallbackInfo& info) {
  auto paths = StringsFrom(info[0]);
  if (!paths) return Reject(info.Env(), "readFirst(paths)");
  return PromiseWorker<std::optional<std::string>>::Run(
      info.Env(), [paths = std::move(*paths)] { return ReadFirst(paths); },
      [](Napi::Env env, std::optional<std::string>& text) -> Napi::Value {
        return StringOrUndefined(env, text);
      });
}

Napi::Object FileObject(Napi::Env env, const Folder::value_type& file) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", file.first);
  object.Set("text", file.second);
  return object;
}

Napi::Value ReadFolderJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString() || !info[1].IsString()) {
    return Reject(info.Env(), "readFolder(path, suffix)");
  }
  return PromiseWorker<Folder>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(),
       suffix = info[1].As<Napi::String>().Utf8Value()] { return ReadFolder(path, suffix); },
      [](Napi::Env env, Folder& folder) -> Napi::Value {
        return ArrayOf(env, folder, FileObject);
      });
}

Napi::Value ListFolderJs(const Napi::CallbackInfo& info) {
  const auto mount = SafeInteger(info[1]);
  if (!info[0].IsString() || !mount) return Reject(info.Env(), "listFolder(path, mount)");
  return PromiseWorker<FolderNames>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(), mount = *mount] {
        return ListFolder(path, mount);
      },
      [](Napi::Env env, FolderNames& names) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("files", Strings(env, names.files));
        object.Set("folders", Strings(env, names.folders));
        return object;
      });
}

Napi::Value LockRecordJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "lockRecord(path)");
  return PromiseWorker<LockedRecord>::Run(
      info.Env(), [path = info[0].As<Napi::String>().Utf8Value()] { return LockRecord(path); },
      [](Napi::Env env, LockedRecord& record) -> Napi::Value {
        const Napi::Value fd = HeldNumber(env, record.fd);
        Napi::Object object = Napi::Object::New(env);
        object.Set("fd", fd);
        object.Set("text", record.text);
        return object;
      });
}

Napi::Value ReleaseRecordJs(const Napi::CallbackInfo& info) {
  auto fd = TakeDescriptor(info[0]);
  if (!fd || !info[1].IsString()) return Reject(info.Env(), "releaseRecord(fd, path)");
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd, path = info[1].As<Napi::String>().Utf8Value()] {
        return ReleaseRecord(std::move(*fd), path);
      },
      Undefined);
}

Napi::Value CloseJs(const Napi::CallbackInfo& info) {
  auto fd = TakeDescriptor(info[0]);
  if (!fd) return Reject(info.Env(), "close(fd)");
  return PromiseWorker<Nothing>::Run(info.Env(), [fd] { return Close(std::move(*fd)); }, Undefined);
}

// A step on an open file that takes a text.
template <Result<Nothing> (*step)(int, const std::string&)>
Napi::Value FileTextStepJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  if (!fd || !info[1].IsString()) return Reject(info.Env(), "file step(fd, text)");
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd = *fd, text = info[1].As<Napi::String>().Utf8Value()] { return step(fd.get(), text); },
      Undefined);
}

// A step on an open file that answers with nothing but whether it went well.
template <Result<Nothing> (*step)(int)>
Napi::Value FileStepJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  if (!fd) return Reject(info.Env(), "file step(fd)");
  return PromiseWorker<Nothing>::Run(info.Env(), [fd = *fd] { return step(fd.get()); }, Undefined);
}

// Something that a file is or is not.
template <Result<Nothing> (*set)(int, bool)>
Napi::Value FileSwitchJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  if (!fd || !info[1].IsBoolean()) return Reject(info.Env(), "file switch(fd, on)");
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd = *fd, on = info[1].As<Napi::Boolean>().Value()] { return set(fd.get(), on); },
      Undefined);
}

// What becomes of a lease, or how it is: whether nobody has asked for it.
template <Result<bool> (*check)(int, bool)>
Napi::Value LeaseCheckJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  if (!fd || !info[1].IsBoolean()) return Reject(info.Env(), "lease check(fd, exclusive)");
  return PromiseWorker<bool>::Run(
      info.Env(),
      [fd = *fd, exclusive = info[1].As<Napi::Boolean>().Value()] {
        return check(fd.get(), exclusive);
      },
      [](Napi::Env env, bool& whole) -> Napi::Value { return Napi::Boolean::New(env, whole); });
}

Napi::Value GetPinCountJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  if (!fd) return Reject(info.Env(), "getPinCount(fd)");
  return PromiseWorker<uint32_t>::Run(
      info.Env(), [fd = *fd] { return GetPinCount(fd.get()); },
      [](Napi::Env env, uint32_t& count) -> Napi::Value { return Napi::Number::New(env, count); });
}

Napi::Value SetAccessJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  const auto uid = SafeInteger(info[1]);
  const auto mode = SafeInteger(info[2]);
  if (!fd || !uid || !mode) return Reject(info.Env(), "setAccess(fd, uid, mode)");
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [fd = *fd, uid = static_cast<uint32_t>(*uid), mode = static_cast<uint32_t>(*mode)] {
        return SetAccess(fd.get(), uid, mode);
      },
      Undefined);
}

Napi::Value FindDifferenceJs(const Napi::CallbackInfo& info) {
  const auto device = UsedDescriptor::From(info[0]);
  const auto file = UsedDescriptor::From(info[2]);
  auto runs = PackedNumbers::From(info[3]);
  if (!device || !info[1].IsString() || !file || !runs) {
    return Reject(info.Env(), "findDifference(device, path, file, runs)");
  }
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(),
      [device = *device, path = info[1].As<Napi::String>().Utf8Value(), file = *file, runs] {
        return FindDifference(device.get(), path, file.get(), runs->rows());
      },
      NumberOrMinusOne);
}

// The search for a byte of an open file.
template <Result<std::optional<uint64_t>> (*find)(int)>
Napi::Value FileSearchJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  if (!fd) return Reject(info.Env(), "file search(fd)");
  return PromiseWorker<std::optional<uint64_t>>::Run(
      info.Env(), [fd = *fd] { return find(fd.get()); }, NumberOrMinusOne);
}

Napi::Value PageOutJs(const Napi::CallbackInfo& info) {
  const auto pid = SafeInteger(info[0]);
  auto ranges = PackedNumbers::From(info[1]);
  if (!pid || !ranges) return Reject(info.Env(), "pageOut(pid, ranges)");
  return PromiseWorker<Nothing>::Run(
      info.Env(), [pid = static_cast<pid_t>(*pid), ranges] { return PageOut(pid, ranges->rows()); },
      Undefined);
}

Result<Nothing> SyncAndSettle(int fd) {
  auto synced = Sync(fd);
  return synced.ok() ? SettleExtents(fd) : synced;
}

Napi::Value HasInlineDataJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "hasInlineData(device)");
  return PromiseWorker<bool>::Run(
      info.Env(),
      [device = info[0].As<Napi::String>().Utf8Value()] { return HasInlineData(device); },
      [](Napi::Env env, bool& has) -> Napi::Value { return Napi::Boolean::New(env, has); });
}

Napi::Value ReadSwapHeaderJs(const Napi::CallbackInfo& info) {
  const auto fd = UsedDescriptor::From(info[0]);
  if (!fd) return Reject(info.Env(), "readSwapHeader(fd)");
  return PromiseWorker<std::optional<std::string>>::Run(
      info.Env(), [fd = *fd] { return ReadSwapHeader(fd.get()); },
      [](Napi::Env env, std::optional<std::string>& uuid) -> Napi::Value {
        return StringOrUndefined(env, uuid);
      });
}

Napi::Value SwapOutPagesJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "swapOutPages(name)");
  return PromiseWorker<bool>::Run(
      info.Env(), [name = info[0].As<Napi::String>().Utf8Value()] { return SwapOutPages(name); },
      [](Napi::Env env, bool& out) -> Napi::Value { return Napi::Boolean::New(env, out); });
}

Napi::Value RemoveSwappedPagesJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "removeSwappedPages(name)");
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [name = info[0].As<Napi::String>().Utf8Value()] { return RemoveSwappedPages(name); },
      Undefined);
}

}  // namespace

void AddFiles(Napi::Object& exports) {
  Add(exports, "openFile", OpenFileJs);
  Add(exports, "openFileByHandle", OpenFileByHandleJs);
  Add(exports, "open", OpenJs);
  Add(exports, "identify", IdentifyJs);
  Add(exports, "probe", ProbeJs);
  Add(exports, "inspect", InspectJs);
  Add(exports, "sync", FileStepJs<SyncAndSettle>);
  Add(exports, "hasInlineData", HasInlineDataJs);
  Add(exports, "flushJournal", FileStepJs<FlushJournal>);
  Add(exports, "close", CloseJs);
  Add(exports, "readFirst", ReadFirstJs);
  Add(exports, "readFolder", ReadFolderJs);
  Add(exports, "listFolder", ListFolderJs);
  Add(exports, "lockRecord", LockRecordJs);
  Add(exports, "writeRecord", FileTextStepJs<WriteRecord>);
  Add(exports, "releaseRecord", ReleaseRecordJs);
  Add(exports, "findDifference", FindDifferenceJs);
  Add(exports, "findCachedByte", FileSearchJs<FindCachedByte>);
  Add(exports, "findStaleByte", FileSearchJs<FindStaleByte>);
  Add(exports, "pageOut", PageOutJs);
  Add(exports, "lockFile", FileSwitchJs<LockFile>);
  Add(exports, "takeLease", FileSwitchJs<TakeLease>);
  Add(exports, "hasLease", LeaseCheckJs<HasLease>);
  Add(exports, "endLease", LeaseCheckJs<EndLease>);
  Add(exports, "setDirect", FileSwitchJs<SetDirect>);
  Add(exports, "setImmutable", FileSwitchJs<SetImmutable>);
  Add(exports, "setInPlace", FileSwitchJs<SetInPlace>);
  Add(exports, "setAccess", SetAccessJs);
  Add(exports, "setPinned", FileSwitchJs<SetPinned>);
  Add(exports, "getPinCount", GetPinCountJs);
  Add(exports, "setMark", FileTextStepJs<SetMark>);
  Add(exports, "removeMark", FileStepJs<RemoveMark>);
  Add(exports, "writeSwapHeader", FileStepJs<WriteSwapHeader>);
  Add(exports, "readSwapHeader", ReadSwapHeaderJs);
  Add(exports, "swapOn", FileStepJs<SwapOn>);
  Add(exports, "swapOff", FileStepJs<SwapOff>);
  Add(exports, "swapOutPages", SwapOutPagesJs);
  Add(exports, "removeSwappedPages", RemoveSwappedPagesJs);
}

}  // namespace dmloop
