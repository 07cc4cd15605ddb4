#include "core/device.h"

#include <fmt/format.h>

#include <charconv>

#include "core/backend.h"
#include "core/error.h"

namespace headway {

Device Device::best() { return num_cuda_devices() > 0 ? Device{Kind::cuda, 0} : Device{Kind::cpu, 0}; }

Device Device::parse(std::string_view text) {
  if (text == "auto") return best();
  if (text == "cpu") return {Kind::cpu, 0};
  if (text == "cuda") return {Kind::cuda, 0};
  constexpr std::string_view prefix = "cuda:";
  if (text.starts_with(prefix)) {
    const std::string_view digits = text.substr(prefix.size());
    int index = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (error == std::errc() && end == digits.data() + digits.size() && index >= 0)
      return {Kind::cuda, index};
  }
  throw ConfigError(fmt::format("device \"{}\" is unknown: expected auto, cpu, cuda or cuda:<index>", text));
}

std::string Device::to_string() const { return kind == Kind::cpu ? "cpu" : fmt::format("cuda:{}", index); }

Backend& backend(Device device) {
  return device.kind == Device::Kind::cpu ? cpu_backend() : cuda_backend(device.index);
}

}  // namespace headway
