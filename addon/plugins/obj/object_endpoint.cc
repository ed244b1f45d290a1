#include "plugins/obj/object_endpoint.h"

#include <algorithm>
#include <utility>

#include "plugins/obj/sigv4.h"

namespace hicache {

bool RetryBudget::take(bool no_answer) {
  const int cost = no_answer ? 10 : 5;
  std::lock_guard lock(mutex_);
  if (tokens_ < cost) return false;
  tokens_ -= cost;
  return true;
}

void RetryBudget::answered_well() {
  std::lock_guard lock(mutex_);
  tokens_ = std::min(tokens_max, tokens_ + 1);
}

ObjectEndpoint::ObjectEndpoint(ObjectOptions options) : options_(std::move(options)) {
  const size_t end = options_.endpoint.find("://");
  const std::string scheme = options_.endpoint.substr(0, end);
  std::string authority = end == std::string::npos ? options_.endpoint : options_.endpoint.substr(end + 3);
  secure_ = scheme == "https";
  // The port that goes without saying is not said: the signed Host is then what every proxy makes of it.
  const std::string usual = secure_ ? ":443" : ":80";
  if (authority.ends_with(usual)) authority.resize(authority.size() - usual.size());
  host_ = options_.virtual_addressing ? options_.bucket + "." + authority : authority;
  base_ = (secure_ ? "https://" : "http://") + host_;
}

std::string ObjectEndpoint::path_of(std::string_view key) const {
  std::string path = "/";
  if (!options_.virtual_addressing) {
    path += sigv4::encoded(options_.bucket, false);
    if (!key.empty()) path += '/';
  }
  return path + sigv4::encoded(key, true);
}

}  // namespace hicache
