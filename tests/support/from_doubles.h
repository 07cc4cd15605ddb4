// Tensors of any floating type from numbers.
#pragma once

#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"

namespace headway::testing {

inline Tensor from_doubles(const std::vector<double>& values, const Shape& shape, DType dtype,
                           Stream& stream) {
  Tensor tensor;
  dispatch<double, float, bf16>(dtype, "from_doubles", [&]<class T>() {
    std::vector<T> rounded;
    for (const double x : values)
      if constexpr (std::is_same_v<T, bf16>)
        rounded.push_back(bf16(static_cast<float>(x)));
      else
        rounded.push_back(static_cast<T>(x));
    tensor = Tensor::from<T>(rounded, shape, stream);
  });
  return tensor;
}

}  // namespace headway::testing
