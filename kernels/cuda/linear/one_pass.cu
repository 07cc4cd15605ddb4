#include "kernels/cuda/linear/one_pass.h"

#include <algorithm>
#include <array>

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/linear/divide.cuh"
#include "kernels/cuda/linear/sweep.h"
#include "kernels/cuda/tile/tma.cuh"

namespace headway::cuda::linear {
namespace {

constexpr int64_t kWidest = 256;
// With a normaliser: features, and values in the gradients.
constexpr int64_t kMostFeatures = 128, kMostValues = 128;
constexpr int64_t kFewestColumns = 8;  // of rows that copies move
constexpr size_t kZeroBytes = 256;

/// Of the inputs and other rows.
template <class... E>
std::string refusal(const LinearAttentionInputs<bf16>& in, const Stream& stream,
                    const NamedRows<E>&... others) {
  if (std::string reason = hopper_refusal(stream); !reason.empty()) return reason;
  if (in.log_decay) return "the decay differs from token to token";
  const auto too_wide = [](const char* what, int64_t has, int64_t most) {
    return "a head has " + std::to_string(has) + what + ", more than " + std::to_string(most);
  };
  if (const int64_t widest = std::max(in.q.size[3], in.v.size[3]); widest > kWidest)
    return too_wide(" features or values", widest, kWidest);
  if (in.normalise && in.q.size[3] > kMostFeatures)
    return too_wide(" features and a normaliser", in.q.size[3], kMostFeatures);
  if (in.q.numel() == 0) return "there are no tokens";
  return first_map_refusal(NamedRows{"q", in.q}, NamedRows{"k", in.k}, NamedRows{"v", in.v},
                           NamedRows{"norm_q", in.norm_q}, NamedRows{"norm_k", in.norm_k}, others...);
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

/// What the gradients of a normalised output are sweeps of, and the memory it takes.
struct Divided {
  View<const bf16, 4> dn;
  const float* dd;
};
int64_t tokens_of_chunks(int64_t T) { return (T + kChunk - 1) / kChunk * kChunk; }
size_t divided_bytes(const LinearAttentionBackward<bf16>& args) {
  const auto& q = args.in.q.size;
  return static_cast<size_t>(args.dout.numel()) * sizeof(bf16) +
         static_cast<size_t>(q[0] * q[2] * tokens_of_chunks(q[1])) * sizeof(float);
}
Divided divide(const LinearAttentionBackward<bf16>& args, std::byte* memory, Stream& stream) {
  auto* const dn = reinterpret_cast<bf16*>(memory);
  auto* const dd = reinterpret_cast<float*>(dn + args.dout.numel());
  const auto& size = args.dout.size;
  const int64_t rows = size[0] * size[1] * size[2];
  divide_kernel<<<blocks_for(rows * kDivideLanes, 256), 256, 0, stream.native()>>>(
      {.dout = args.dout.data,
       .o = args.o.data,
       .denominator = args.denominator.data,
       .rows = rows,
       .V = size[3],
       .T = size[1],
       .H = size[2],
       .padded = tokens_of_chunks(size[1]),
       .dn = dn,
       .dd = dd});
  check_launch(args.name);
  View<const bf16, 4> rows_of_dn = args.dout;
  rows_of_dn.data = dn;
  return {rows_of_dn, dd};
}

}  // namespace

std::string forward_refusal(const LinearAttentionForward<bf16>& args, const Stream& stream) {
  return refusal(args.in, stream, NamedRows{"o", args.o});
}
std::string backward_refusal(const LinearAttentionBackward<bf16>& args, const Stream& stream) {
  const auto& in = args.in;
  if (in.normalise && in.v.size[3] > kMostValues)
    return "a head has " + std::to_string(in.v.size[3]) + " values and a normaliser, more than " +
           std::to_string(kMostValues);
  return refusal(in, stream, NamedRows{"o", args.o}, NamedRows{"dout", args.dout}, NamedRows{"dq", args.dq},
                 NamedRows{"dk", args.dk}, NamedRows{"dv", args.dv}, NamedRows{"dnorm_q", args.dnorm_q},
                 NamedRows{"dnorm_k", args.dnorm_k});
}

void forward(const LinearAttentionForward<bf16>& args, Stream& stream) {
  const auto& in = args.in;
  Sweep o{.x = in.q,
          .y = in.k,
          .z = in.v,
          .to = args.o,
          .before = in.state.data,
          .after = args.state.data,
          .extra = in.normalise ? in.v.size[3] : 0};
  const auto run = [&](const Sweep& one) {
    sweep(std::array{one}, in.slope.data, sweep_memory(0, stream), args.name, stream);
  };
  if (!in.normalise) return run(o);
  Sweep normalised = o;
  normalised.denominator = args.denominator.data;
  normalised.token_eps = in.token_eps.data, normalised.eps = static_cast<float>(in.eps);
  if (!in.norm_q) return run(normalised);
  // First the denominators and Z, with the fewest columns; what they leave of o and S comes after them.
  normalised.x = in.norm_q, normalised.y = in.norm_k;
  normalised.z.size[3] = normalised.to.size[3] = kFewestColumns;
  run(normalised);
  o.divisor = args.denominator.data;
  run(o);
}

void backward(const LinearAttentionBackward<bf16>& args, Stream& stream) {
  const auto& in = args.in;
  const bool apart = static_cast<bool>(in.norm_q);
  const int64_t extra = in.normalise ? in.v.size[3] : 0;
  const size_t divided = in.normalise ? divided_bytes(args) : 0;
  std::byte *const memory = sweep_memory(divided + kZeroBytes, stream), *const zeros = memory + divided;
  const auto [dn, dd] = in.normalise ? divide(args, memory, stream) : Divided{args.dout, nullptr};
  const float* const bias = apart ? nullptr : dd;
  // R before the first token comes with the sweep that has its last row too.
  float* const after = args.dstate_in.data;
  const Sweep dq{.x = dn,
                 .y = in.v,
                 .z = in.k,
                 .to = args.dq,
                 .before = in.state.data,
                 .transposed = true,
                 .extra = extra,
                 .bias = bias},
      dv{.x = in.k,
         .y = in.q,
         .z = dn,
         .to = args.dv,
         .before = args.dstate.data,
         .after = in.normalise ? nullptr : after,
         .extra = extra,
         .from_end = true},
      dk{.x = in.v,
         .y = dn,
         .z = in.q,
         .to = args.dk,
         .before = args.dstate.data,
         .after = in.normalise ? after : nullptr,
         .transposed = true,
         .extra = extra,
         .from_end = true,
         .bias = bias,
         .bias_of_y = true};
  const auto run = [&](std::span<const Sweep> sweeps) {
    sweep(sweeps, in.slope.data, zeros + kZeroBytes, args.name, stream);
  };
  if (apart) {
    // Pairs that are their bias alone: x and y are one row of zeros, behind which copies see zeros. What
    // these sweeps leave of R but for its last row comes after them.
    check_cuda(cudaMemsetAsync(zeros, 0, kZeroBytes, stream.native()), args.name);
    const View<const bf16, 4> zero{.data = reinterpret_cast<const bf16*>(zeros),
                                   .size = {1, 1, 1, kFewestColumns},
                                   .stride = {kFewestColumns, kFewestColumns, kFewestColumns, 1}};
    Sweep dnorm_q = dq, dnorm_k = dk;
    dnorm_q.z = in.norm_k, dnorm_q.to = args.dnorm_q;
    dnorm_k.z = in.norm_q, dnorm_k.to = args.dnorm_k;
    for (Sweep* const of_bias : {&dnorm_q, &dnorm_k}) of_bias->x = of_bias->y = zero, of_bias->bias = dd;
    run(std::array{dnorm_q, dnorm_k});
  }
  if (in.q.size[3] == in.v.size[3] && !bias) return run(std::array{dq, dv, dk});
  run(std::array{dq, dk});
  run(std::array{dv});
}

}  // namespace headway::cuda::linear
