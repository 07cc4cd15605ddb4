// The softmax core's forward pass on Hopper, in bf16: which calls it takes, and its launch. Registers and
// shared memory: 40 or 232 a thread and 225 KiB (heads of 128), 32 or 160 and 201 KiB (heads of 64, long
// rows), 168 and 73 KiB three times (short rows).
//
// It takes every mask, grouped queries, the slots that act on whole rows after their softmax, row_scale and
// sink, and for windows row_index, of whose rows alone it computes. Its kernels depend on the variant's mask
// alone: variants with the mask of WindowVariant share the ones in forward_hopper_64.cu and
// forward_hopper_128.cu, and another mask has its own in the variant's unit.
#pragma once

#include <bit>

#include "kernels/attention/softmax.h"
#include "kernels/cuda/attention/forward_hopper_blocks.cuh"
#include "kernels/cuda/attention/forward_hopper_pipeline.cuh"
#include "kernels/cuda/hopper.cuh"

namespace headway::cuda::hopper {

/// What a launch needs beside the maps of its tensors.
template <class M>
struct ForwardCall {
  View<const bf16, 4> q, k, v;
  View<bf16, 4> o, y;  // y may be absent
  typename M::Params params = {};
  int64_t query_offset = 0;
  double scale = 1;
  View<float, 3> log_sum_exp;
  View<const float, 3> row_scale;    // may be absent
  View<const float, 1> sink;         // may be absent
  View<const int32_t, 3> row_index;  // may be absent: every row
};

/// From this many keys of the middle row on, three warpgroups that share their keys are faster than blocks of
/// one for heads of 64.
inline constexpr int kLongRow = 1024;

template <int kRows, class M, class R>
void launch_forward(const ForwardCall<M>& call, const TilePlan<M>& plan, void (*kernel)(ForwardArgs<M, R>),
                    int threads, int bytes, int stored_rows, unsigned blocks, Stream& stream) {
  constexpr const char* kName = "softmax_attention_forward";
  const int64_t B = call.q.size[0], T = call.q.size[1], H = call.q.size[2], Tk = call.k.size[1];
  ForwardArgs<M, R> args{};
  args.q = tensor_map(call.q, {1, R::kAreListed ? 1 : kRows, 1, 64});
  args.k = tensor_map(call.k, {1, kKeys, 1, 64});
  args.v = tensor_map(call.v, {1, kKeys, 1, 64});
  args.o = tensor_map(call.o, {1, stored_rows, 1, 64});
  args.writes_y = static_cast<bool>(call.y);
  if (call.y) args.y = tensor_map(call.y, {1, stored_rows, 1, 64});
  args.plan = plan;
  args.scale = static_cast<float>(call.scale);
  args.power = args.scale * kLog2E;
  args.limit = 8 / args.power;
  args.num_heads = Divisor(static_cast<int>(H));
  args.group = Divisor(static_cast<int>(H / call.k.size[2]));
  args.row_tiles = static_cast<int>((T + kRows - 1) / kRows);
  args.num_tiles = static_cast<int>(B * H) * args.row_tiles;
  // Half of the L2 cache for keys and values, the rest for what passes by.
  const int64_t bytes_of_head = 4 * Tk * call.q.size[3], room = property(stream, cudaDevAttrL2CacheSize) / 2;
  const auto key_heads = std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(1, room / bytes_of_head)));
  const int64_t section = std::min(static_cast<int64_t>(key_heads) * (H / call.k.size[2]), B * H);
  args.num_sections = static_cast<int>((B * H + section - 1) / section);
  args.section = Divisor(static_cast<int>(section));
  args.last_section = Divisor(static_cast<int>(B * H - (args.num_sections - 1) * section));
  args.section_tiles = Divisor(static_cast<int>(section) * args.row_tiles);
  args.log_sum_exp = call.log_sum_exp;
  args.row_scale = call.row_scale;
  args.sink = call.sink;
  blocks = std::min(blocks, static_cast<unsigned>(args.num_tiles));
  const size_t counts = R::kAreListed ? static_cast<size_t>(B * H) : 0;
  auto* const words = reinterpret_cast<unsigned*>(stream.scratch((1 + counts) * sizeof(unsigned)).data());
  if constexpr (R::kAreListed) {
    int* const count = reinterpret_cast<int*>(words + 1);
    args.rows_of_queries = {call.row_index, count};
    clear_unlisted_rows(call.row_index, call.o, call.y, call.log_sum_exp, -INFINITY, count, stream);
  }
  if (static_cast<int>(blocks) < args.num_tiles) {
    args.taken = words;
    check_cuda(cudaMemsetAsync(args.taken, 0, sizeof(unsigned), stream.native()), kName);
  }
  allow_shared(kernel, bytes, kName);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             kName);
  kernel<<<blocks, static_cast<unsigned>(threads), static_cast<size_t>(bytes), stream.native()>>>(args);
  check_launch(kName);
}

/// D: 64 or 128, at least the head's width; what is missing are zeros.
template <int D, class M>
void run_forward(const ForwardCall<M>& call, Stream& stream) {
  const int64_t B = call.q.size[0], T = call.q.size[1], H = call.q.size[2];
  const TilePlan<M> plan{call.params, static_cast<int>(call.query_offset), static_cast<int>(T),
                         static_cast<int>(call.k.size[1])};
  const unsigned multiprocessors = num_multiprocessors(stream);
  using P = Pipeline<D>;
  if constexpr (std::is_same_v<M, WindowVariant>)
    if (call.row_index)
      return launch_forward<P::kRows>(call, plan, pipeline_kernel<M, D, ListedRows>, P::kThreads,
                                      P::kBytesWithList, 1, multiprocessors, stream);
  if constexpr (D == 64) {
    const int middle = static_cast<int>(T / 2);
    const IndexRange keys = plan.keys_of(middle, middle);
    // Long rows of few heads leave multiprocessors without a large tile.
    if (keys.last - keys.first < kLongRow || B * H * ((T + P::kRows - 1) / P::kRows) < multiprocessors)
      return launch_forward<Blocks::kRows>(call, plan, blocks_kernel<M>, Blocks::kThreads, Blocks::kBytes, 64,
                                           Blocks::kPerMultiprocessor * multiprocessors, stream);
  }
  launch_forward<P::kRows>(call, plan, pipeline_kernel<M, D, AllRows>, P::kThreads, P::kBytes, 16,
                           multiprocessors, stream);
}

extern template void run_forward<64>(const ForwardCall<WindowVariant>&, Stream&);
extern template void run_forward<128>(const ForwardCall<WindowVariant>&, Stream&);

/// Whose kernels a variant's mask needs, and with which parameters.
template <class V>
struct MaskOf {
  using Mask = V;
  static typename V::Params params(const typename V::Params& params) { return params; }
};
template <class V>
requires kHasCausalMask<V>
struct MaskOf<V> {
  using Mask = WindowVariant;
  static WindowVariant::Params params(const typename V::Params&) { return {}; }
};
template <class V>
requires kHasWindowMask<V>
struct MaskOf<V> {
  using Mask = WindowVariant;
  static WindowVariant::Params params(const WindowVariant::Params& params) { return params; }
};

/// Slots that these kernels have no place for.
inline constexpr Slots kForeignSlots = Slots::key_bias | Slots::key_end | Slots::row_bias;
/// Whether listed rows have a mask for which these kernels compute those alone.
template <class V>
inline constexpr bool kTakesRowIndex =
    !has(V::slots, Slots::row_index) || std::is_same_v<typename MaskOf<V>::Mask, WindowVariant>;
template <class V>
inline constexpr bool kTakesVariant = HasLogSumExp<V>&& kHasDefaultScore<V> && !V::drops_weights &&
                                      !has(V::slots, kForeignSlots) && kTakesRowIndex<V>;

/// Why a call is not for these kernels, after "because"; empty where it is.
template <class V>
std::string forward_refusal(const SoftmaxForward<V, bf16>& args, const Stream& stream) {
  if (!HasLogSumExp<V>) return "the variant's weights are not a softmax's";
  if (!kHasDefaultScore<V>) return "the variant has a score of its own";
  if (V::drops_weights) return "weights are dropped";
  if (has(V::slots, kForeignSlots)) return "the variant has slots other than row_scale, row_index and sink";
  if (!kTakesRowIndex<V>) return "the rows that are listed do not see a window of the latest keys";
  if (std::string refusal = hopper_refusal(stream); !refusal.empty()) return refusal;
  if (args.v.size[3] != args.q.size[3])
    return "values have " + std::to_string(args.v.size[3]) + " channels and keys " +
           std::to_string(args.q.size[3]);
  if (args.q.size[3] > 128)
    return "a head has " + std::to_string(args.q.size[3]) + " channels, more than 128";
  if (!(args.scale > 0)) return "the scale " + std::to_string(args.scale) + " is not positive";
  if (std::string refusal =
          first_map_refusal(NamedRows{"q", args.q}, NamedRows{"k", args.k}, NamedRows{"v", args.v},
                            NamedRows{"o", args.o}, NamedRows{"y", args.y});
      !refusal.empty())
    return refusal;
  if (args.q.size[0] * args.q.size[2] * ((args.q.size[1] + 63) / 64) > INT_MAX / 2 ||
      args.k.size[1] > INT_MAX - 2 * kKeys)
    return "there are 2^30 tiles of rows or more";
  return "";
}

template <class V>
void forward(const SoftmaxForward<V, bf16>& args, Stream& stream) {
  if constexpr (kTakesVariant<V>) {
    ForwardCall<typename MaskOf<V>::Mask> call;
    call.q = args.q, call.k = args.k, call.v = args.v, call.o = args.o;
    call.params = MaskOf<V>::params(args.params);
    call.query_offset = args.query_offset, call.scale = args.scale;
    call.log_sum_exp = args.log_sum_exp;
    if constexpr (has(V::slots, Slots::row_scale)) call.row_scale = args.slots.row_scale, call.y = args.y;
    if constexpr (has(V::slots, Slots::sink)) call.sink = args.slots.sink;
    if constexpr (has(V::slots, Slots::row_index)) call.row_index = args.slots.row_index;
    args.q.size[3] <= 64 ? run_forward<64>(call, stream) : run_forward<128>(call, stream);
  }
}

}  // namespace headway::cuda::hopper
