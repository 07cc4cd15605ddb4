// bfloat16 as a storage type: the upper half of an IEEE float, rounded to nearest even.
#pragma once

#include <bit>
#include <cstdint>

#include "core/host_device.h"

namespace headway {

struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  HEADWAY_HD explicit bf16(float value) : bits(round(value)) {}
  HEADWAY_HD explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }

 private:
  HEADWAY_HD static uint16_t round(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x0040u);  // quiet NaN
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

}  // namespace headway
