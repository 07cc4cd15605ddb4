// What a collective accepts, checked the same way by every communicator.
#pragma once

#include "core/tensor.h"

namespace headway {

/// Contiguous, and f32, f64, i32 or i64; ShapeError otherwise.
void check_reducible(const Tensor&);
/// Contiguous and of `size` equal parts; ShapeError naming the collective otherwise.
void check_parts(const Tensor&, int size, const char* collective);
/// Contiguous, ShapeError; an existing root, CommError.
void check_broadcast(const Tensor&, int root, int size);
/// CommError naming the collective unless the tensor is in host memory.
void check_on_host(const Tensor&, const char* collective);

}  // namespace headway
