#include "js_values.h"
#include "local_socket.h"
#include "udev_cookie.h"

namespace dmloop {

namespace {

using CookieHandle = std::shared_ptr<const Cookie>;

Napi::Value ProbeSocketJs(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) return Reject(info.Env(), "probeSocket(path)");
  return PromiseWorker<std::optional<LocalSocket>>::Run(
      info.Env(), [path = info[0].As<Napi::String>().Utf8Value()] { return ProbeSocket(path); },
      [](Napi::Env env, std::optional<LocalSocket>& found) -> Napi::Value {
        if (!found) return env.Undefined();
        Napi::Object object = Napi::Object::New(env);
        object.Set("uid", static_cast<double>(found->uid));
        object.Set("bound", found->bound);
        return object;
      });
}

Napi::Value CreateCookieJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<CookieHandle>::Run(
      info.Env(), CreateCookie, [](Napi::Env env, CookieHandle& cookie) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("base", static_cast<double>(cookie->base()));
        object.Set("handle", HandleTo(env, std::move(cookie), sizeof(Cookie)));
        return object;
      });
}

Napi::Value SweepCookiesJs(const Napi::CallbackInfo& info) {
  return PromiseWorker<int>::Run(
      info.Env(), SweepCookies,
      [](Napi::Env env, int& count) -> Napi::Value { return Napi::Number::New(env, count); });
}

Napi::Value PendingEventsJs(const Napi::CallbackInfo& info) {
  auto cookie = HandleFrom<Cookie>(info[0]);
  if (!cookie) return Reject(info.Env(), "pendingEvents(cookie)");
  return PromiseWorker<int>::Run(
      info.Env(), [cookie] { return cookie->PendingEvents(); },
      [](Napi::Env env, int& count) -> Napi::Value { return Napi::Number::New(env, count); });
}

Napi::Value DestroyCookieJs(const Napi::CallbackInfo& info) {
  auto cookie = HandleFrom<Cookie>(info[0]);
  if (!cookie) return Reject(info.Env(), "destroyCookie(cookie)");
  return PromiseWorker<Nothing>::Run(info.Env(), [cookie] { return cookie->Destroy(); }, Undefined);
}

}  // namespace

void AddUdev(Napi::Object& exports) {
  Add(exports, "probeSocket", ProbeSocketJs);
  Add(exports, "createCookie", CreateCookieJs);
  Add(exports, "sweepCookies", SweepCookiesJs);
  Add(exports, "pendingEvents", PendingEventsJs);
  Add(exports, "destroyCookie", DestroyCookieJs);
}

}  // namespace dmloop
