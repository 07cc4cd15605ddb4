#include "kernels/cuda/linear/one_pass.h"

#include <algorithm>
#include <array>

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/linear/sweep.h"
#include "kernels/cuda/linear/widen.cuh"
#include "kernels/cuda/tile/tma.cuh"

namespace headway::cuda::linear {
namespace {

constexpr int64_t kWidest = 256;
// With a normaliser: features, and values in the gradients.
constexpr int64_t kMostFeatures = 128, kMostValues = 128 - kMoreChannels;

/// Of the inputs and other rows.
template <class... E>
std::string refusal(const LinearAttentionInputs<bf16>& in, const Stream& stream,
                    const NamedRows<E>&... others) {
  if (std::string reason = hopper_refusal(stream); !reason.empty()) return reason;
  if (in.log_decay) return "the decay differs from token to token";
  if (in.norm_q) return "the normaliser has features of its own";
  const auto too_wide = [](const char* what, int64_t has, int64_t most) {
    return "a head has " + std::to_string(has) + what + ", more than " + std::to_string(most);
  };
  if (const int64_t widest = std::max(in.q.size[3], in.v.size[3]); widest > kWidest)
    return too_wide(" features or values", widest, kWidest);
  if (in.normalise && in.q.size[3] > kMostFeatures)
    return too_wide(" features and a normaliser", in.q.size[3], kMostFeatures);
  if (in.q.numel() == 0) return "there are no tokens";
  return first_map_refusal(NamedRows{"q", in.q}, NamedRows{"k", in.k}, NamedRows{"v", in.v}, others...);
}

/// Memory for the states of segments, behind so many bytes of what the sweeps read.
std::byte* sweep_memory(size_t bytes, Stream& stream) {
  return stream
      .scratch(bytes + num_multiprocessors(stream) * kMostSegments * kMostSegmentFloats * sizeof(float))
      .data();
}

void sweep(std::span<const Sweep> sweeps, const float* slope, std::byte* segment_states, const char* name,
           Stream& stream) {
  const int64_t channels = sweeps[0].x.size[3];
  const auto launch = channels <= 64    ? launch_sweeps<64>
                      : channels <= 128 ? launch_sweeps<128>
                                        : launch_sweeps<256>;
  launch(sweeps, slope, reinterpret_cast<float*>(segment_states), name, stream);
}

/// dn and v with kMoreChannels more, in so many bytes of memory.
size_t widened_bytes(const LinearAttentionBackward<bf16>& args) {
  return 2 * static_cast<size_t>(args.denominator.numel() * (args.in.v.size[3] + kMoreChannels)) *
         sizeof(bf16);
}
std::array<View<const bf16, 4>, 2> widen(const LinearAttentionBackward<bf16>& args, std::byte* memory,
                                         Stream& stream) {
  const auto& size = args.in.v.size;
  const int64_t rows = args.denominator.numel(), width = size[3] + kMoreChannels;
  auto* const wide = reinterpret_cast<bf16*>(memory);
  widen_kernel<<<blocks_for(rows * kWidenLanes, 256), 256, 0, stream.native()>>>(
      {.dout = args.dout.data,
       .o = args.o.data,
       .v = args.in.v.data,
       .denominator = args.denominator.data,
       .rows = rows,
       .V = size[3],
       .wide_dn = wide,
       .wide_v = wide + rows * width});
  check_launch(args.name);
  const auto view = [&](const bf16* data) {
    return View<const bf16, 4>{.data = data,
                               .size = {size[0], size[1], size[2], width},
                               .stride = {size[1] * size[2] * width, size[2] * width, width, 1}};
  };
  return {view(wide), view(wide + rows * width)};
}

}  // namespace

std::string forward_refusal(const LinearAttentionForward<bf16>& args, const Stream& stream) {
  return refusal(args.in, stream, NamedRows{"o", args.o});
}
std::string backward_refusal(const LinearAttentionBackward<bf16>& args, const Stream& stream) {
  const auto& in = args.in;
  if (in.normalise && (in.state || args.dstate || args.dstate_in))
    return "a state with a normaliser takes part in the gradients";
  if (in.normalise && in.v.size[3] > kMostValues)
    return "a head has " + std::to_string(in.v.size[3]) + " values and a normaliser, more than " +
           std::to_string(kMostValues);
  return refusal(in, stream, NamedRows{"o", args.o}, NamedRows{"dout", args.dout}, NamedRows{"dq", args.dq},
                 NamedRows{"dk", args.dk}, NamedRows{"dv", args.dv});
}

void forward(const LinearAttentionForward<bf16>& args, Stream& stream) {
  const auto& in = args.in;
  const Sweep o{.x = in.q,
                .y = in.k,
                .z = in.v,
                .to = args.o,
                .before = in.state.data,
                .after = args.state.data,
                .denominator = in.normalise ? args.denominator.data : nullptr,
                .token_eps = in.token_eps.data,
                .eps = static_cast<float>(in.eps)};
  sweep(std::array{o}, in.slope.data, sweep_memory(0, stream), args.name, stream);
}

void backward(const LinearAttentionBackward<bf16>& args, Stream& stream) {
  const auto& in = args.in;
  View<const bf16, 4> dn = args.dout, wide_dn = dn, wide_v = in.v;
  const size_t widened = in.normalise ? widened_bytes(args) : 0;
  std::byte* const memory = sweep_memory(widened, stream);
  if (in.normalise) {
    const auto wide = widen(args, memory, stream);
    wide_dn = dn = wide[0], wide_v = wide[1];
    dn.size[3] = in.v.size[3];
  }
  const Sweep dq{
      .x = wide_dn, .y = wide_v, .z = in.k, .to = args.dq, .before = in.state.data, .transposed = true},
      dv{.x = in.k,
         .y = in.q,
         .z = dn,
         .to = args.dv,
         .before = args.dstate.data,
         .after = args.dstate_in.data,
         .from_end = true},
      dk{.x = wide_v,
         .y = wide_dn,
         .z = in.q,
         .to = args.dk,
         .before = args.dstate.data,
         .transposed = true,
         .from_end = true};
  const auto run = [&](std::span<const Sweep> sweeps) {
    sweep(sweeps, in.slope.data, memory + widened, args.name, stream);
  };
  if (in.q.size[3] == in.v.size[3] && !in.normalise) return run(std::array{dq, dv, dk});
  run(std::array{dq, dk});
  run(std::array{dv});
}

}  // namespace headway::cuda::linear
