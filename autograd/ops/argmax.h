#pragma once

#include "core/context.h"
#include "core/tensor.h"

namespace headway {

/// x [N,V] f32 or f64 -> [N] i32: the column of each row's largest number, of equal ones the first, -1 where
/// the row has NaN.
Tensor argmax_rows(Context&, const Tensor& x);

}  // namespace headway
