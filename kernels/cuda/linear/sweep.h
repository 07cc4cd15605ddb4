// Linear attention on Hopper in one pass over the sequence: what the kernels of one_pass.cuh and
// segment_states.cuh are told. A sweep goes over the chunks of every head once and computes, with w_ij what
// the decay leaves of token j at token i,
//
//   to_i = scale_i x_i S + sum_{j<=i} w_ij <x_i, y_j> z_j        S <- decay S + sum_j weight_j y_j^T z_j
//
// in the order of the sequence, or from its end with j >= i. The output and all gradients are sweeps:
//
//   to    x     y     z     S before        S after      order
//   o     q     k     v     state           new state    from the start
//   dq    dout  v     k     state^T         -            from the start
//   dv    k     q     dout  dstate          dstate_in    from the end
//   dk    v     dout  q     dstate^T        -            from the end
//
// The output can be normalised: divided by d_i = scale_i <x_i, Z> + sum_j w_ij <x_i, y_j> + eps_i, where Z is
// the sum of the rows of y as S is that of y^T z. Its gradients are sweeps whose pairs <x_i, y_j> + b have a
// bias of token i or j (see divide.cuh and bias.cuh).
//
// S stays in registers from the first chunk to the last: what moves is each operand once. Where heads are too
// few for the GPU, a sequence is cut into segments: a first kernel leaves what each of them adds to the
// state, and each block of the second adds up those before its own, in their order, so that bits repeat.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "core/stream.h"
#include "core/view.h"

namespace headway::cuda::linear {

inline constexpr int kChunk = 64;  // tokens

/// What a sweep reads and writes.
struct Sweep {
  View<const bf16, 4> x, y, z;    // [B,T,H,R], [B,T,H,R], [B,T,H,C]
  View<bf16, 4> to;               // [B,T,H,C]
  const float* before = nullptr;  // S before the first chunk, optional: zero; [B,H,R,C], or ...
  float* after = nullptr;         // S after the last chunk, optional; ... [B,H,C,R] where it is transposed
  bool transposed = false;
  int64_t extra = 0;  // place in the rows of before and after of one more number; 0: they have none
  bool from_end = false;

  // With a bias of the pairs, which all sweeps of a launch have: S has one more row.
  const float* bias = nullptr;  // [B,H,tokens in whole chunks], zeros behind T
  bool bias_of_y = false;       // of token j, not i

  // Divided by numbers that are there, in a launch of its own.
  const float* divisor = nullptr;  // [B,T,H]

  // With a normaliser, which a launch has for its only sweep: S has one more column, Z.
  float* denominator = nullptr;      // [B,T,H]: d
  const float* token_eps = nullptr;  // [B,T,H], optional, in place of eps
  float eps = 0;
};

/// Where sequences are cut, all segments together are no more than so many to a multiprocessor, and each
/// leaves no more than so many fp32 numbers.
inline constexpr int kMostSegments = 2, kMostSegmentFloats = 17408;

/// x and y of all sweeps have at most kChannels channels, 64, 128 or 256, and 128 with a normaliser, a
/// divisor or biases; all have the same B, T, H and C, which are those of z, and R, the channels of x. slope
/// [H], optional: no decay. segment_states: kMostSegments x kMostSegmentFloats for each multiprocessor.
template <int kChannels>
void launch_sweeps(std::span<const Sweep> sweeps, const float* slope, float* segment_states, const char* name,
                   Stream& stream);

}  // namespace headway::cuda::linear
