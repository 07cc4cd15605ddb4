// Softmax attention's backward for Hopper as one of the kernels a call can be given to: for variants whose
// rows see a window of the latest keys and whose logit is the scaled product. The kernel itself is
// backward_hopper_kernel.cuh, compiled once for all variants.
#pragma once

#include <climits>
#include <string>

#include "kernels/cuda/attention/softmax_simple.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/tile/tma.cuh"

namespace headway::cuda::hopper {

/// Keys a tile has, and the queries of one for heads of D channels.
inline constexpr int kBackwardKeys = 128;
template <int D>
inline constexpr int kBackwardQueries = D == 64 ? 128 : 64;

/// A SoftmaxBackward of such a variant; shapes and meanings as there.
struct Backward {
  static constexpr const char* name = "softmax_attention_backward";

  View<const bf16, 4> q, k, v, y, dout;  // y: O of listed rows
  View<const float, 3> log_sum_exp;
  View<const float, 3> row_scale;    // empty: 1
  View<const int32_t, 3> row_index;  // empty: every row
  View<bf16, 4> dq, dk, dv;
  View<float, 3> drow_scale;  // may be empty
  double scale;
  TilePlan<WindowVariant> plan;
};

/// Returns r_i D_i of each row of q, [B,H,T], valid until the stream's scratch memory is asked for again;
/// nothing where rows are listed.
/// D: 64 or 128, at least the width of the heads.
template <int D>
View<const float, 3> backward_of_width(const Backward& args, Stream& stream);
extern template View<const float, 3> backward_of_width<64>(const Backward& args, Stream& stream);
extern template View<const float, 3> backward_of_width<128>(const Backward& args, Stream& stream);

/// Of a variant with the mask of WindowVariant or plain causal attention.
template <class V>
int window_of(const typename V::Params& params) {
  if constexpr (kHasWindowMask<V>)
    return params.window;
  else
    return 0;
}

template <class V>
std::string backward_refusal(const SoftmaxBackward<V, bf16>& args, const Stream& stream) {
  if (!kHasCausalMask<V> && !kHasWindowMask<V>)
    return "the variant's rows do not see a window of the latest keys";
  if (!HasLogSumExp<V>) return "the variant's weights are not a softmax's";
  if (!kHasDefaultScore<V>) return "the variant changes scores";
  if (V::drops_weights) return "weights are dropped";
  if (V::slots != Slots::none && V::slots != Slots::row_scale && V::slots != Slots::sink &&
      V::slots != (Slots::row_scale | Slots::row_index))
    return "the variant has other slots than a row scale, which listed rows may have too, or a sink";
  if (std::string refusal = hopper_refusal(stream); !refusal.empty()) return refusal;
  if (args.v.size[3] != args.q.size[3])
    return "values have " + std::to_string(args.v.size[3]) + " channels and keys " +
           std::to_string(args.q.size[3]);
  if (args.q.size[3] > 128)
    return "a head has " + std::to_string(args.q.size[3]) + " channels, more than 128";
  if (!(args.scale > 0)) return "the scale " + std::to_string(args.scale) + " is not positive";
  if (std::string refusal =
          first_row_refusal(NamedRows{"q", args.q}, NamedRows{"k", args.k}, NamedRows{"v", args.v},
                            NamedRows{"y", args.y}, NamedRows{"dout", args.dout}, NamedRows{"dq", args.dq},
                            NamedRows{"dk", args.dk}, NamedRows{"dv", args.dv});
      !refusal.empty())
    return refusal;
  if (!can_map(args.q) || !can_map(args.k) || !can_map(args.v) || !can_map(args.dout) || !can_map(args.dq) ||
      !can_map(args.dk) || !can_map(args.dv))
    return "a tensor has strides that no tensor map can hold";
  // Where long tasks fill half of an H100's 132 multiprocessors, the smaller ones of other kernels are
  // faster.
  const int64_t tasks =
      args.q.size[0] * args.q.size[2] * ((args.k.size[1] + kBackwardKeys - 1) / kBackwardKeys);
  const int window = window_of<V>(args.params);
  if (args.q.size[3] > 64 && tasks <= 66 && args.q.size[1] >= 2048 && (window == 0 || window >= 2048))
    return std::to_string(tasks) + " tiles of keys leave half of the GPU idle";
  const int64_t rows = args.q.size[0] * args.q.size[2] * args.q.size[1];
  if (rows > INT_MAX || args.k.size[0] * args.k.size[2] * args.k.size[1] > INT_MAX)
    return "there are more than 2^31 - 1 rows of heads";
  return "";
}

template <class V>
void backward(const SoftmaxBackward<V, bf16>& args, Stream& stream) {
  Backward call{.q = args.q,
                .k = args.k,
                .v = args.v,
                .y = args.y,
                .dout = args.dout,
                .log_sum_exp = args.log_sum_exp,
                .row_scale = args.slots.row_scale,
                .row_index = args.slots.row_index,
                .dq = args.dq,
                .dk = args.dk,
                .dv = args.dv,
                .drow_scale = args.dslots.row_scale,
                .scale = args.scale,
                .plan = {.params = {.window = window_of<V>(args.params)},
                         .query_offset = static_cast<int>(args.query_offset),
                         .num_queries = static_cast<int>(args.q.size[1]),
                         .num_keys = static_cast<int>(args.k.size[1])}};
  const View<const float, 3> row_dots =
      args.q.size[3] <= 64 ? backward_of_width<64>(call, stream) : backward_of_width<128>(call, stream);
  simple::sum_sink_gradients(args, row_dots, stream);
}

}  // namespace headway::cuda::hopper
