#include "js_values.h"
#include "udev_cookie.h"

namespace dmloop {

namespace {

Napi::Value CreateCookieJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<Cookie>::Run(info.Env(), CreateCookie,
                                    [](Napi::Env env, Cookie& cookie) -> Napi::Value {
                                      Napi::Object object = Napi::Object::New(env);
                                      object.Set("semaphore", cookie.semaphore);
                                      object.Set("value", cookie.value);
                                      return object;
                                    });
}

Napi::Value PendingEventsJs(const Napi::CallbackInfo& info) {
  const auto semaphore = SafeInteger(info[0]);
  if (!semaphore) return Reject(info.Env(), "pendingEvents(semaphore)");
  return PromiseWorker<int>::Run(
      info.Env(), [id = static_cast<int>(*semaphore)] { return PendingEvents(id); },
      [](Napi::Env env, int& count) -> Napi::Value { return Napi::Number::New(env, count); });
}

Napi::Value DestroyCookieJs(const Napi::CallbackInfo& info) {
  const auto semaphore = SafeInteger(info[0]);
  if (!semaphore) return Reject(info.Env(), "destroyCookie(semaphore)");
  return PromiseWorker<Nothing>::Run(
      info.Env(), [id = static_cast<int>(*semaphore)] { return DestroyCookie(id); }, Undefined);
}

}  // namespace

void AddUdev(Napi::Object& exports) {
  Add(exports, "createCookie", CreateCookieJs);
  Add(exports, "pendingEvents", PendingEventsJs);
  Add(exports, "destroyCookie", DestroyCookieJs);
}

}  // namespace dmloop
