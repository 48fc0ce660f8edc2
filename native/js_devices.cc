#include "device_facts.h"
#include "files.h"
#include "js_values.h"
#include "mounts.h"
#include "places.h"
#include "probe.h"

namespace dmloop {

namespace {

Napi::Object DeviceFactsObject(Napi::Env env, const DeviceFacts& facts) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("number", facts.number);
  object.Set("kernelName", StringOrUndefined(env, facts.kernel_name));
  object.Set("mapperName", StringOrUndefined(env, facts.mapper_name));
  object.Set("mdLevel", StringOrUndefined(env, facts.md_level));
  object.Set("backingFile", StringOrUndefined(env, facts.backing_file));
  object.Set("underlying", Strings(env, facts.underlying));
  return object;
}

Napi::Value ReadDevicesJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "readDevices(device)");
  return PromiseWorker<std::vector<DeviceFacts>>::Run(
      info.Env(), [device = info[0].As<Napi::String>().Utf8Value()] { return ReadDevices(device); },
      [](Napi::Env env, std::vector<DeviceFacts>& devices) -> Napi::Value {
        return ArrayOf(env, devices, DeviceFactsObject);
      });
}

Napi::Value FilesystemUuidJs(const Napi::CallbackInfo& info) {
  const auto device = DeviceNumberFrom(info[0], info[1]);
  if (!device) return Reject(info.Env(), "filesystemUuid(major, minor)");
  return PromiseWorker<std::optional<std::string>>::Run(
      info.Env(), [device = *device] { return FilesystemUuid(device); },
      [](Napi::Env env, std::optional<std::string>& uuid) -> Napi::Value {
        return StringOrUndefined(env, uuid);
      });
}

struct MountedFilesystem {
  DeviceNumber device;
  std::string name;
};

Napi::Object MountedObject(Napi::Env env, const MountedFilesystem& filesystem) {
  Napi::Object object = DeviceNumberObject(env, filesystem.device);
  object.Set("filesystem", filesystem.name);
  return object;
}

void AppendMounted(std::vector<MountedFilesystem>& filesystems, const std::vector<Mount>& mounts) {
  for (const Mount& mount : mounts) {
    const auto device = mount.number.major != 0 ? mount.number : DeviceAt(mount.place);
    if (device) filesystems.push_back({*device, mount.filesystem});
  }
}

// The mounts of every namespace, as far as TypeScript asks about them.
Napi::Value ListMountsJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<std::vector<MountedFilesystem>>::Run(
      info.Env(),
      []() -> Result<std::vector<MountedFilesystem>> {
        std::vector<MountedFilesystem> filesystems;
        AppendMounted(filesystems, OwnMounts());
        AppendMounted(filesystems, ForeignMounts());
        return filesystems;
      },
      [](Napi::Env env, std::vector<MountedFilesystem>& filesystems) -> Napi::Value {
        return ArrayOf(env, filesystems, MountedObject);
      });
}

Napi::Value MakeBlockNodeJs(const Napi::CallbackInfo& info) {
  const auto device = DeviceNumberFrom(info[1], info[2]);
  if (!info[0].IsString() || !device) {
    return Reject(info.Env(), "makeBlockNode(path, major, minor)");
  }
  return PromiseWorker<Nothing>::Run(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(), device = *device] {
        return MakeBlockNode(path, device.major, device.minor);
      },
      Undefined);
}

}  // namespace

void AddDevices(Napi::Object& exports) {
  Add(exports, "readDevices", ReadDevicesJs);
  Add(exports, "filesystemUuid", FilesystemUuidJs);
  Add(exports, "listMounts", ListMountsJs);
  Add(exports, "makeBlockNode", MakeBlockNodeJs);
}

}  // namespace dmloop
