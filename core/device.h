// Where a tensor lives and an operation runs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace headway {

struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  static constexpr int kNumKinds = 2;

  Kind kind = Kind::cpu;
  int index = 0;

  bool operator==(const Device&) const = default;

  /// The first CUDA device where one is usable, else the CPU.
  static Device best();
  /// "cpu", "cuda" or "cuda:1"; "auto" is best(). ConfigError for anything else.
  static Device parse(std::string_view text);
  /// "cpu", "cuda:0"
  std::string to_string() const;
};

constexpr const char* to_string(Device::Kind kind) { return kind == Device::Kind::cpu ? "cpu" : "cuda"; }

}  // namespace headway
