// recorder.start, mark and stop: for the trials of the specs only.
#include <unistd.h>

#include "napi/support_napi.h"
#include "util/recorder.h"

namespace hicache {
namespace {

bool text_argument(const Napi::CallbackInfo& info, size_t index, const char* function, std::string& text) {
  const bool given = info.Length() > index && info[index].IsString();
  if (given) text = info[index].As<Napi::String>().Utf8Value();
  else throw_argument(info.Env(), std::string(function) + " needs strings.");
  return given;
}

Napi::Value start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string log, directory;
  if (!text_argument(info, 0, "start", log) || !text_argument(info, 1, "start", directory)) return env.Undefined();
  const int error = recorder::start(log, directory);
  if (error != 0) make_system_error(env, error, "starting the recording " + log).ThrowAsJavaScriptException();
  return env.Undefined();
}

Napi::Value mark(const Napi::CallbackInfo& info) {
  std::string text;
  if (text_argument(info, 0, "mark", text)) recorder::mark(text);
  return info.Env().Undefined();
}

Napi::Value stop(const Napi::CallbackInfo& info) {
  const int error = recorder::stop();
  if (error != 0) make_system_error(info.Env(), error, "the recording").ThrowAsJavaScriptException();
  return info.Env().Undefined();
}

}  // namespace

void export_recorder(Napi::Env env, Napi::Object exports) {
  Napi::Object recorder = Napi::Object::New(env);
  recorder.Set("start", Napi::Function::New(env, start, "start"));
  recorder.Set("mark", Napi::Function::New(env, mark, "mark"));
  recorder.Set("stop", Napi::Function::New(env, stop, "stop"));
  exports.Set("recorder", recorder);
}

}  // namespace hicache
