#include "napi/support_napi.h"

namespace hicache {

void export_bench(Napi::Env env, Napi::Object exports) { exports.Set("bench", Napi::Object::New(env)); }

}  // namespace hicache
