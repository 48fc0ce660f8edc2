#include "js_values.h"
#include "local_socket.h"
#include "udev_cookie.h"

namespace dmloop {

namespace {

Napi::Value LookAtSocketJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "lookAtSocket(path)");
  return PromiseWorker<std::optional<LocalSocket>>::Run(
      info.Env(), [path = info[0].As<Napi::String>().Utf8Value()] { return LookAtSocket(path); },
      [](Napi::Env env, std::optional<LocalSocket>& found) -> Napi::Value {
        if (!found) return env.Undefined();
        Napi::Object object = Napi::Object::New(env);
        object.Set("uid", static_cast<double>(found->uid));
        object.Set("bound", found->bound);
        return object;
      });
}

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
  Add(exports, "lookAtSocket", LookAtSocketJs);
  Add(exports, "createCookie", CreateCookieJs);
  Add(exports, "pendingEvents", PendingEventsJs);
  Add(exports, "destroyCookie", DestroyCookieJs);
}

}  // namespace dmloop
