#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "plugins/gds/cufile_driver.h"

namespace hicache::cufile {
namespace {

constexpr char configuration_variable[] = "CUFILE_ENV_PATH_JSON";
constexpr char default_configuration[] = "/etc/cufile.json";
constexpr size_t configuration_bytes_max = 1 << 20;

// cuFile's configuration is JSON with comments. Of it two booleans matter here, whose names stand nowhere else.
std::string without_comments(const std::string& text) {
  std::string kept;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); i++) {
    if (quoted && text[i] == '\\' && i + 1 < text.size()) {
      kept += text[i++];
    } else if (text[i] == '"') {
      quoted = !quoted;
    } else if (!quoted && text.compare(i, 2, "//") == 0) {
      i = text.find('\n', i);
      if (i == std::string::npos) break;
    } else if (!quoted && text.compare(i, 2, "/*") == 0) {
      i = text.find("*/", i + 2);
      if (i == std::string::npos) break;
      i++;
      continue;
    }
    kept += text[i];
  }
  return kept;
}

bool boolean_of(const std::string& text, const char* name, bool otherwise) {
  size_t at = text.find(std::string(1, '"').append(name).append(1, '"'));
  if (at == std::string::npos) return otherwise;
  at = text.find(':', at);
  if (at == std::string::npos) return otherwise;
  for (at++; at < text.size() && std::isspace(static_cast<unsigned char>(text[at])) != 0; at++) {
  }
  if (text.compare(at, 4, "true") == 0) return true;
  if (text.compare(at, 5, "false") == 0) return false;
  return otherwise;
}

void read_configuration(ProbeReport& report) {
  const char* const named = std::getenv(configuration_variable);
  std::ifstream file(named != nullptr && *named != '\0' ? named : default_configuration);
  std::string text(configuration_bytes_max, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  text = without_comments(text);
  report.allow_compat = boolean_of(text, "allow_compat_mode", true);
  report.force_compat = boolean_of(text, "force_compat_mode", false);
}

void look(const ProbeOptions& options, ProbeReport& report) {
  const auto because = [&](const std::string& reason, const std::string& remedy) {
    report.reason = reason;
    report.remedy = remedy;
  };
  Failure failure;
  const Api* const api = load(failure);
  if (api == nullptr) return because(failure.what, failure.remedy);
  report.path = api->path;
  report.version = api->version;
  cuda::Devices* const devices = cuda::Devices::get(failure);
  if (devices == nullptr) return because(failure.what, failure.remedy);
  report.cuda_path = devices->api().path;
  report.devices = devices->count();
  std::ifstream modules(options.modules);
  if (!modules) {
    // Its driver would look there for ever.
    return because(std::string(options.modules).append(" is not there, and cuFile's driver would wait for it without end"),
                   "mount /proc, and run on a kernel with modules; or use the plugin POSIX, which stages GPU memory through host memory");
  }
  for (std::string line; std::getline(modules, line);) report.nvidia_fs = report.nvidia_fs || line.rfind("nvidia_fs ", 0) == 0;
  read_configuration(report);
  const bool nodes = ::access(options.device_nodes.c_str(), F_OK) == 0;
  if (!CufileDriver::instance().open(failure)) return because(failure.what, failure.remedy);
  report.usable = true;
  report.mode = ProbeReport::Mode::compat;
  if (report.force_compat) return because("cuFile's configuration forces compatibility mode", "set properties.force_compat_mode = false in cufile.json");
  if (!report.nvidia_fs) return because("the kernel module nvidia-fs is not loaded: cuFile stages through host memory", "install and load nvidia-fs (modprobe nvidia-fs)");
  if (!nodes) {
    return because(std::string("nvidia-fs is loaded, but ").append(options.device_nodes).append(" is not there: cuFile stages through host memory"),
                   "give the container the device nodes /dev/nvidia-fs*");
  }
  report.mode = ProbeReport::Mode::gds;
}

}  // namespace

const char* name_of(ProbeReport::Mode mode) {
  return mode == ProbeReport::Mode::gds ? "gds" : mode == ProbeReport::Mode::compat ? "compat" : "unavailable";
}

ProbeReport probe(const ProbeOptions& options) {
  ProbeReport report;
  look(options, report);
  return report;
}

}  // namespace hicache::cufile
