// The archive that the tests of archives write: every dtype, odd shapes, texts and attributes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/io/archive.h"
#include "core/rng.h"

namespace headway {

/// A tensor whose bits are all random, so that NaN payloads, infinities and denormals occur.
inline Tensor random_bits_tensor(const Shape& shape, DType dtype, uint32_t seed) {
  const Tensor tensor = Tensor::empty(shape, dtype, Device{});
  auto* bytes = static_cast<uint8_t*>(tensor.raw());
  for (size_t i = 0; i < tensor.bytes(); ++i)
    bytes[i] = static_cast<uint8_t>(random_bits(RandomKey{seed, 0, 0, 0}, i));
  return tensor;
}

inline void write_sample(ArchiveWriter& writer) {
  const std::vector<DType> dtypes{DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8};
  uint32_t seed = 1;
  for (const DType dtype : dtypes) {
    const std::string group = std::string("model/") + to_string(dtype);
    writer.tensor(group + "/matrix.weight", random_bits_tensor({13, 7}, dtype, seed++));
    writer.tensor(group + "/vector", random_bits_tensor({31}, dtype, seed++));
    writer.tensor(group + "/scalar", random_bits_tensor({}, dtype, seed++));
    writer.tensor(group + "/six", random_bits_tensor({1, 2, 3, 1, 2, 3}, dtype, seed++));
    writer.tensor(group + "/empty", random_bits_tensor({0, 4}, dtype, seed++));
  }
  writer.attribute("model/f32/vector", "role", "norm");
  writer.text("recipe", "[model]\nnum_layers = 2  # \xce\xbb\n");
  writer.text("tokenizer/merges", "");
  writer.attribute("tokenizer", "kind", "bytes");
  writer.attribute("state", "step", int64_t{-5});
  writer.attribute("state", "nothing", "");
  writer.attribute("state", "loss", 0.1);
  for (int i = 0; i < 20; ++i) writer.attribute("env", "value_" + std::to_string(i), int64_t{i});
}

}  // namespace headway
