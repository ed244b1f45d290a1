// `objects` of the addon: libcurl, credentials, requests apart from pages, and signatures for the specs.
#include "napi/objects_napi.h"

#include <cerrno>
#include <memory>
#include <new>
#include <system_error>

#include "plugins/obj/credentials.h"
#include "plugins/obj/curl_api.h"
#include "plugins/obj/object_client.h"

namespace hicache {
namespace {

constexpr double bytes_max = 9007199254740991.0;
// A server that takes its time does not keep a process from ending.
constexpr unsigned release_ms = 2000;

// A member that may be missing or empty. False, with an exception pending, when it is something else.
bool text_of(Napi::Object options, const char* name, std::string& out) {
  const Napi::Value value = options.Get(name);
  if (!value.IsEmpty() && value.IsUndefined()) return true;
  if (value.IsEmpty() || !value.IsString()) {
    throw_argument(options.Env(), std::string(name) + " must be a string.");
    return false;
  }
  out = value.As<Napi::String>().Utf8Value();
  if (out.find('\0') == std::string::npos) return true;
  throw_argument(options.Env(), std::string(name) + " must be a string without NUL.");
  return false;
}

// Header names and values go into lines: what would end a line is refused.
bool pairs_of(Napi::Object options, const char* name, std::vector<std::pair<std::string, std::string>>& out) {
  const Napi::Value value = options.Get(name);
  if (!value.IsEmpty() && value.IsUndefined()) return true;
  if (value.IsEmpty() || !value.IsObject()) {
    throw_argument(options.Env(), std::string(name) + " must be an object.");
    return false;
  }
  const Napi::Object object = value.As<Napi::Object>();
  const Napi::Array names = object.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); i++) {
    const Napi::Value key = names.Get(i), text = object.Get(key);
    if (key.IsEmpty() || text.IsEmpty() || !key.IsString() || !text.IsString()) {
      throw_argument(options.Env(), std::string(name) + " must hold strings.");
      return false;
    }
    out.emplace_back(key.As<Napi::String>().Utf8Value(), text.As<Napi::String>().Utf8Value());
    for (const std::string* one : {&out.back().first, &out.back().second}) {
      if (one->find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos) continue;
      throw_argument(options.Env(), std::string(name) + " must hold strings without line ends.");
      return false;
    }
  }
  return true;
}

bool credentials_of(Napi::Value value, Credentials& out) {
  if (!value.IsObject()) {
    throw_argument(value.Env(), "credentials must be an object.");
    return false;
  }
  const Napi::Object object = value.As<Napi::Object>();
  if (!text_of(object, "accessKey", out.access_key) || !text_of(object, "secretKey", out.secret_key) || !text_of(object, "sessionToken", out.session_token)) return false;
  for (const std::string* one : {&out.access_key, &out.secret_key, &out.session_token}) {
    if (one->find_first_of("\r\n") == std::string::npos) continue;
    throw_argument(value.Env(), "credentials must not have line ends in them.");
    return false;
  }
  return true;
}

Napi::Value curl_report(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Refusal refusal;
  const curl::Api* const api = curl::load(refusal);
  Napi::Object out = Napi::Object::New(env);
  out.Set("usable", Napi::Boolean::New(env, api != nullptr));
  out.Set("path", Napi::String::New(env, api == nullptr ? "" : api->path));
  out.Set("version", Napi::String::New(env, api == nullptr ? "" : api->version));
  out.Set("reason", Napi::String::New(env, refusal.reason));
  out.Set("remedy", Napi::String::New(env, refusal.remedy));
  return out;
}

Napi::Value set_credentials(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Credentials credentials;
  if (!credentials_of(info[0], credentials)) return env.Undefined();
  uint32_t id = 0;
  if (info.Length() > 1 && !info[1].IsUndefined()) {
    if (!info[1].IsNumber() || info[1].As<Napi::Number>().DoubleValue() < 1) {
      throw_argument(env, "The id of credentials is a number from 1.");
      return env.Undefined();
    }
    id = info[1].As<Napi::Number>().Uint32Value();
  }
  const uint32_t known = CredentialStore::instance().set(id, std::move(credentials));
  if (known == 0) {
    throw_argument(env, "There are no credentials of that id (any more).");
    return env.Undefined();
  }
  return Napi::Number::New(env, known);
}

Napi::Value release_credentials(const Napi::CallbackInfo& info) {
  const bool known = info.Length() > 0 && info[0].IsNumber() && CredentialStore::instance().remove(info[0].As<Napi::Number>().Uint32Value());
  return Napi::Boolean::New(info.Env(), known);
}

Napi::Value sign(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsObject()) {
    throw_argument(env, "sign() takes a request.");
    return env.Undefined();
  }
  const Napi::Object options = info[0].As<Napi::Object>();
  std::string method, url, hash, region, service, date;
  std::vector<sigv4::Header> headers;
  Credentials credentials;
  bool twice = false;
  if (!string_of(options, "method", method) || !string_of(options, "url", url) || !string_of(options, "payloadHash", hash) || !string_of(options, "region", region) ||
      !string_of(options, "service", service) || !string_of(options, "date", date) || !pairs_of(options, "headers", headers) ||
      !bool_of(options, "doubleEncode", false, twice) || !credentials_of(options.Get("credentials"), credentials)) {
    return env.Undefined();
  }
  const size_t authority = url.find("://");
  const size_t slash = authority == std::string::npos ? std::string::npos : url.find('/', authority + 3);
  const std::string target = slash == std::string::npos ? "/" : url.substr(slash);
  const size_t question = target.find('?');
  const std::string path = target.substr(0, question), query = question == std::string::npos ? "" : target.substr(question + 1);
  sigv4::Signer signer(region, service);
  const sigv4::Signature signature = signer.sign({method, path, query, headers, hash, twice}, credentials, date);
  Napi::Object out = Napi::Object::New(env);
  out.Set("authorization", Napi::String::New(env, signature.authorization));
  out.Set("canonicalRequest", Napi::String::New(env, signature.canonical_request));
  out.Set("stringToSign", Napi::String::New(env, signature.string_to_sign));
  return out;
}

napi_value request_error(Out& out, const S3Answer& answer) {
  if (answer.result == S3Result::cancelled) return out.system_error(ECANCELED, "a request to the object store");
  napi_value error = nullptr;
  const napi_value code = out.string("ECURL"), message = out.string(answer.why);
  if (!out.ok() || napi_create_error(out.env(), code, message, &error) != napi_ok) return nullptr;
  out.set(error, "curl", out.number(answer.curl_code));
  return error;
}

// Small letters: names of headers are the same in any case.
std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  }
  return text;
}

class ClientWrap final : public Napi::ObjectWrap<ClientWrap> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "ObjectClient", {InstanceMethod<&ClientWrap::request>("request"), InstanceMethod<&ClientWrap::close>("close")});
  }
  explicit ClientWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ClientWrap>(info) {
    const Napi::Env env = info.Env();
    ObjectOptions options;
    if (info.Length() < 1 || !info[0].IsObject()) {
      throw_argument(env, "An object client needs to know where the objects are.");
      return;
    }
    if (!object_options_of(info[0].As<Napi::Object>(), options)) return;
    Refusal refusal;
    const curl::Api* const api = curl::load(refusal);
    if (api == nullptr) {
      make_error(env, "ERR_PLUGIN_UNAVAILABLE", "Plugin OBJ cannot be used: " + refusal.reason + ". " + refusal.remedy).ThrowAsJavaScriptException();
      return;
    }
    try {
      client_ = std::make_shared<ObjectClient>(*api, options);
    } catch (const std::system_error& error) {
      make_system_error(env, error.code().value(), "making an object client").ThrowAsJavaScriptException();
    }
  }
  ~ClientWrap() override {
    if (client_ != nullptr) client_->close();
  }

 private:
  Napi::Value request(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (client_ == nullptr) {
      make_error(env, "ERR_CLOSED", "request() on an object client that is closed.").ThrowAsJavaScriptException();
      return env.Undefined();
    }
    if (info.Length() < 1 || !info[0].IsObject()) {
      throw_argument(env, "request() takes a request.");
      return env.Undefined();
    }
    const Napi::Object options = info[0].As<Napi::Object>();
    auto call = std::make_shared<ObjectCall>();
    double number;
    if (!string_of(options, "method", call->method) || !text_of(options, "key", call->key) || !pairs_of(options, "query", call->query) ||
        !pairs_of(options, "headers", call->headers) || !number_of(options, "timeoutMs", 10'000, 1, 86'400'000, number)) {
      return env.Undefined();
    }
    call->timeout_ms = static_cast<int64_t>(number);
    if (!number_of(options, "retries", 3, 0, 100, number)) return env.Undefined();
    call->retries = static_cast<unsigned>(number);
    const Napi::Value body = options.Get("body");
    Bytes bytes;
    if (body.IsEmpty() || (!body.IsUndefined() && !bytes_of(body, bytes))) {
      throw_argument(env, "body must be a Uint8Array.");
      return env.Undefined();
    }
    call->body.assign(reinterpret_cast<const char*>(bytes.data), bytes.length);
    auto answer = std::make_shared<S3Answer>();
    return run_in_background(
        env, [client = client_, call, answer] { *answer = client->request(*call); },
        [answer](Out& out, const Deferred& deferred) {
          // Every answer is one, also one that says no; only silence is an error.
          if (answer->status == 0 || answer->result == S3Result::cancelled) return deferred.reject(out, request_error(out, *answer));
          const napi_value told = out.object(), headers = out.object();
          out.set(told, "status", out.number(answer->status));
          for (const auto& [name, value] : answer->all) out.set(headers, lower(name).c_str(), out.string(value));
          out.set(told, "headers", headers);
          out.set(told, "body", out.copy(answer->body.data(), answer->body.size()));
          deferred.resolve(out, told);
        },
        info.This(), release_ms);
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    if (client_ != nullptr) std::exchange(client_, nullptr)->close();
    return info.Env().Undefined();
  }

  std::shared_ptr<ObjectClient> client_;
};

}  // namespace

bool object_options_of(Napi::Object options, ObjectOptions& out) {
  double number;
  if (!string_of(options, "endpoint", out.endpoint) || !string_of(options, "region", out.region) || !string_of(options, "bucket", out.bucket) ||
      !bool_of(options, "virtualAddressing", false, out.virtual_addressing) || !text_of(options, "caBundle", out.ca_bundle) || !text_of(options, "proxy", out.proxy) ||
      !bool_of(options, "sendChecksum", false, out.send_checksum) || !bool_of(options, "askChecksum", false, out.ask_checksum) ||
      !bool_of(options, "signPayload", false, out.sign_payload)) {
    return false;
  }
  if (!number_of(options, "credentials", 0, 0, UINT32_MAX, number)) return false;
  out.credentials = static_cast<uint32_t>(number);
  if (!number_of(options, "multipartBytes", 32 << 20, 0, bytes_max, number)) return false;
  out.multipart_bytes = static_cast<uint64_t>(number);
  if (!number_of(options, "threads", 4, 1, 1024, number)) return false;
  out.threads = static_cast<unsigned>(number);
  if (!number_of(options, "connections", 16, 1, 4096, number)) return false;
  out.connections = static_cast<unsigned>(number);
  if (out.endpoint.starts_with("http://") || out.endpoint.starts_with("https://")) return true;
  throw_argument(options.Env(), "endpoint must begin with http:// or https://.");
  return false;
}

void export_objects(Napi::Env env, Napi::Object exports) {
  Napi::Object objects = Napi::Object::New(env);
  objects.Set("curl", Napi::Function::New(env, curl_report, "curl"));
  objects.Set("setCredentials", Napi::Function::New(env, set_credentials, "setCredentials"));
  objects.Set("releaseCredentials", Napi::Function::New(env, release_credentials, "releaseCredentials"));
  objects.Set("sign", Napi::Function::New(env, sign, "sign"));
  objects.Set("Client", ClientWrap::define(env));
  exports.Set("objects", objects);
}

}  // namespace hicache
