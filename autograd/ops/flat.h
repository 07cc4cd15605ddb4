// A contiguous tensor as one row, for elementwise kernels.
#pragma once

#include "core/tensor.h"

namespace headway {

template <class T>
View<T, 1> flat(const Tensor& tensor, const char* name) {
  return tensor.reshape({-1}).view<T, 1>(name);
}

/// Uninitialised memory of the same shape, dtype and device.
inline Tensor empty_like(const Tensor& tensor) {
  return Tensor::empty(tensor.shape(), tensor.dtype(), tensor.device());
}

}  // namespace headway
