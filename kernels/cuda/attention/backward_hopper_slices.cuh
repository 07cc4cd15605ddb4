// dK and dV of grouped heads whose tasks have not all of a group's query heads: the sum of what each slice of
// them gave, in the order of the slices, in fp32.
#pragma once

#include "kernels/cuda/attention/backward_hopper_rows.cuh"

namespace headway::cuda::hopper {

/// parts [B,Tk,slices,Dh] -> to [B,Tk,K,Dh], in the key tiles that are seen.
void sum_slices(const View<const bf16, 4>& parts, const View<bf16, 4>& to, KeyTiles seen, Stream& stream);

}  // namespace headway::cuda::hopper
