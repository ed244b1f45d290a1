// What JavaScript sees: lib/transfer/native-binding.ts is the contract.
#include <initializer_list>
#include <utility>

#include "agent/protocol.h"
#include "napi/support_napi.h"
#include "segments/slot_record.h"

namespace hicache {
namespace {

Napi::Object numbers(Napi::Env env, std::initializer_list<std::pair<const char*, double>> entries) {
  Napi::Object out = Napi::Object::New(env);
  for (const auto& [name, value] : entries) out.Set(name, Napi::Number::New(env, value));
  return out;
}

constexpr double of(Op op) { return static_cast<double>(op); }
constexpr double of(Status status) { return static_cast<double>(status); }

// For the spec that compares both sides.
Napi::Object protocol(Napi::Env env) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("Op", numbers(env, {{"pageWrite", of(Op::page_write)}, {"pageRead", of(Op::page_read)}, {"pageCheck", of(Op::page_check)},
                              {"pageDelete", of(Op::page_delete)}, {"pageTouch", of(Op::page_touch)}, {"extentRead", of(Op::extent_read)},
                              {"extentWrite", of(Op::extent_write)}, {"segmentWrite", of(Op::segment_write)}, {"segmentRead", of(Op::segment_read)},
                              {"tombstones", of(Op::tombstones)}}));
  out.Set("Flag", numbers(env, {{"acceptUnverified", flag::accept_unverified}, {"replace", flag::replace}, {"skipChecksum", flag::skip_checksum},
                                {"force", flag::force}, {"dropCorrupt", flag::drop_corrupt}, {"compareFirst", flag::compare_first},
                                {"foreign", flag::foreign}, {"sync", flag::sync}}));
  out.Set("Status", numbers(env, {{"ok", of(Status::ok)}, {"alreadyThere", of(Status::already_there)}, {"absent", of(Status::absent)},
                                  {"corrupt", of(Status::corrupt)}, {"identity", of(Status::identity)}, {"length", of(Status::length)},
                                  {"unverified", of(Status::unverified)}, {"cancelled", of(Status::cancelled)}, {"error", of(Status::error)},
                                  {"stale", of(Status::stale)}, {"unavailable", of(Status::unavailable)}, {"refused", of(Status::refused)}}));
  out.Set("Field", numbers(env, {{"op", field::op}, {"flags", field::flags}, {"directory", field::directory}, {"nameOffset", field::name_offset},
                                 {"nameLength", field::name_length}, {"region", field::region}, {"memoryOffset", field::memory_offset},
                                 {"length", field::length}, {"fileOffset", field::file_offset}, {"recordOffset", field::record_offset},
                                 {"identityLength", field::identity_length}, {"metaLength", field::meta_length}, {"word", field::word},
                                 {"wordQueued", field::word_queued}, {"recordAt", field::record_at}}));
  out.Set("DESCRIPTOR_STRIDE", Napi::Number::New(env, field::stride));
  out.Set("WordState", numbers(env, {{"free", word_state::free}, {"queued", word_state::queued}, {"started", word_state::started},
                                     {"done", word_state::done}, {"cancelled", word_state::cancelled}, {"cancelling", word_state::cancelling}}));
  out.Set("WORD_STATE_BITS", Napi::Number::New(env, word_state::bits));
  out.Set("ResultField", numbers(env, {{"status", result_field::status}, {"errno", result_field::error}, {"length", result_field::length},
                                       {"microseconds", result_field::microseconds}}));
  out.Set("RESULT_STRIDE", Napi::Number::New(env, result_field::stride));
  out.Set("META_BYTES_MAX", Napi::Number::New(env, static_cast<double>(meta_bytes_max)));
  out.Set("IDENTITY_BYTES_MAX", Napi::Number::New(env, static_cast<double>(identity_bytes_max)));
  out.Set("SLOT_RECORD_BYTES", Napi::Number::New(env, static_cast<double>(slot_record::bytes)));
  out.Set("TOMBSTONE_BYTES", Napi::Number::New(env, static_cast<double>(tombstone_bytes)));
  out.Set("TOMBSTONES_MAX", Napi::Number::New(env, static_cast<double>(tombstones_max)));
  out.Set("SLOT_EXPECTED_FROM", Napi::Number::New(env, static_cast<double>(slot_record::expected_from)));
  out.Set("SLOT_EXPECTED_BYTES", Napi::Number::New(env, static_cast<double>(slot_record::expected_bytes)));
  out.Set("BLOCK_BYTES", Napi::Number::New(env, static_cast<double>(block_bytes)));
  return out;
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  Environment::attach(env);
  exports.Set("protocol", protocol(env));
  export_agent(env, exports);
  export_memory(env, exports);
  export_system(env, exports);
  export_bench(env, exports);
  export_segments(env, exports);
  export_objects(env, exports);
  export_cuda(env, exports);
  export_data_paths(env, exports);
  export_recorder(env, exports);
  return exports;
}

NODE_API_MODULE(hicache_nixl, initialise)

}  // namespace
}  // namespace hicache
