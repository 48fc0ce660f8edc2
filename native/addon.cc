#include <napi.h>

#include "js_values.h"

// The JavaScript face of the native half; each js_*.cc is that of one room.
namespace dmloop {

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  Environment::Make(env);
  AddCalls(exports);
  AddFiles(exports);
  AddDevices(exports);
  AddImages(exports);
  AddExtents(exports);
  AddSegments(exports);
  AddDeviceMapper(exports);
  AddLoop(exports);
  AddUdev(exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(dmloop, Init)

}  // namespace dmloop
