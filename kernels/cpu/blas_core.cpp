#include "kernels/cpu/blas_core.h"

#include <cblas.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <set>
#include <sstream>

namespace headway {
namespace {

constexpr const char* kChoice = "OPENBLAS_CORETYPE";
// Tells the program that was started again what OpenBLAS had taken.
constexpr const char* kReplaced = "HEADWAY_REPLACED_BLAS_CORE";

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  const auto same = [&](std::string_view other) {
    return std::ranges::equal(name, other, {}, [](unsigned char c) { return std::tolower(c); });
  };
  return std::ranges::any_of(names, same);
}

VectorWidth width_of_flags(const std::string& line) {
  std::istringstream words(line);
  const std::set<std::string> flags{std::istream_iterator<std::string>(words), {}};
  const auto has = [&](std::initializer_list<const char*> names) {
    return std::ranges::all_of(names, [&](const char* name) { return flags.contains(name); });
  };
  if (has({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"})) return VectorWidth::avx512;
  return has({"avx2", "fma"}) ? VectorWidth::avx2 : VectorWidth::older;
}

}  // namespace

std::optional<VectorWidth> width_of_blas_core(std::string_view core) {
  if (is_one_of(core, {"skylakex", "cooperlake", "sapphirerapids"})) return VectorWidth::avx512;
  if (is_one_of(core, {"haswell", "zen", "excavator"})) return VectorWidth::avx2;
  if (is_one_of(core, {"prescott",    "core2",     "penryn",     "dunnington",   "nehalem",
                       "sandybridge", "atom",      "katmai",     "coppermine",   "northwood",
                       "banias",      "athlon",    "opteron",    "opteron_sse3", "barcelona",
                       "bobcat",      "bulldozer", "piledriver", "steamroller",  "nano"}))
    return VectorWidth::older;
  return std::nullopt;
}

VectorWidth width_of_processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("flags")) return width_of_flags(line);
  return VectorWidth::older;
}

std::string better_blas_core(std::string_view core, VectorWidth processor) {
  if (!width_of_blas_core(core) || *width_of_blas_core(core) >= processor) return "";
  return processor == VectorWidth::avx512 ? "SkylakeX" : "Haswell";
}

void restart_with_better_blas_core(char** argv) {
  const std::string core = openblas_get_corename();
  const std::string better = better_blas_core(core, width_of_processor());
  // A build for one processor has one core, whatever the environment says.
  const bool has_choice = std::string_view(openblas_get_config()).find("DYNAMIC_ARCH") != std::string::npos;
  if (better.empty() || !has_choice || std::getenv(kChoice) || std::getenv(kReplaced)) return;
  setenv(kChoice, better.c_str(), 1);
  setenv(kReplaced, core.c_str(), 1);
  execv("/proc/self/exe", argv);
  unsetenv(kChoice);  // it goes on as it is
  unsetenv(kReplaced);
}

std::string describe_blas_core() {
  const std::string core = openblas_get_corename();
  const char* const replaced = std::getenv(kReplaced);
  const std::string better = better_blas_core(core, width_of_processor());
  std::string text = "OpenBLAS " + core;
  if (!better.empty())
    text +=
        ", older than this processor allows: " + std::string(kChoice) + "=" + better + " may be much faster";
  else if (replaced)
    text += " (chosen in place of " + std::string(replaced) + ", which is older than this processor)";
  return text;
}

}  // namespace headway
