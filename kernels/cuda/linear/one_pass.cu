#include "kernels/cuda/linear/one_pass.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "kernels/cuda/linear/sweep.h"
#include "kernels/cuda/tile/tma.cuh"

namespace headway::cuda::linear {
namespace {

/// Whether this build has code of Hopper's own instructions, and the stream's GPU runs it.
bool is_hopper(const Stream& stream) {
  return std::string_view(HEADWAY_CUDA_ARCHITECTURES).find("90a") != std::string_view::npos &&
         property(stream, cudaDevAttrComputeCapabilityMajor) == 9 &&
         property(stream, cudaDevAttrComputeCapabilityMinor) == 0;
}

constexpr int64_t kWidest = 256;

template <class E>
std::string map_refusal(const char* name, const View<E, 4>& rows) {
  if (rows.size[3] % 8 != 0)
    return "a row of " + std::string(name) + " has " + std::to_string(rows.size[3]) +
           " channels, which is no multiple of 8";
  return can_map(rows) ? ""
                       : std::string(name) + " is not aligned to 16 bytes, or too large for the copy engine";
}

/// Of the inputs and other rows.
template <class... E>
std::string refusal(const LinearAttentionInputs<bf16>& in, const Stream& stream,
                    const NamedRows<E>&... others) {
  if (!is_hopper(stream)) return "the GPU or the build is not for sm_90a";
  if (in.log_decay) return "the decay differs from token to token";
  if (in.normalise) return "there is a normaliser";
  if (const int64_t widest = std::max(in.q.size[3], in.v.size[3]); widest > kWidest)
    return "a head has " + std::to_string(widest) + " features or values, more than " +
           std::to_string(kWidest);
  if (in.q.numel() == 0) return "there are no tokens";
  std::string reason;
  const auto maps = [&](const auto& named) { return (reason = map_refusal(named.name, named.rows)).empty(); };
  static_cast<void>(maps(NamedRows{"q", in.q}) && maps(NamedRows{"k", in.k}) && maps(NamedRows{"v", in.v}) &&
                    (maps(others) && ...));
  return reason;
}

void sweep(std::span<const Sweep> sweeps, const float* slope, const char* name, Stream& stream) {
  const int64_t channels = sweeps[0].x.size[3];
  const auto launch = channels <= 64    ? launch_sweeps<64>
                      : channels <= 128 ? launch_sweeps<128>
                                        : launch_sweeps<256>;
  launch(sweeps, slope, name, stream);
}

}  // namespace

std::string forward_refusal(const LinearAttentionForward<bf16>& args, const Stream& stream) {
  return refusal(args.in, stream, NamedRows{"o", args.o});
}
std::string backward_refusal(const LinearAttentionBackward<bf16>& args, const Stream& stream) {
  return refusal(args.in, stream, NamedRows{"dout", args.dout}, NamedRows{"dq", args.dq},
                 NamedRows{"dk", args.dk}, NamedRows{"dv", args.dv});
}

void forward(const LinearAttentionForward<bf16>& args, Stream& stream) {
  const auto& in = args.in;
  const Sweep o{
      .x = in.q, .y = in.k, .z = in.v, .to = args.o, .before = in.state.data, .after = args.state.data};
  sweep(std::array{o}, in.slope.data, args.name, stream);
}

void backward(const LinearAttentionBackward<bf16>& args, Stream& stream) {
  const auto& in = args.in;
  const Sweep dq{
      .x = args.dout, .y = in.v, .z = in.k, .to = args.dq, .before = in.state.data, .transposed = true},
      dv{.x = in.k,
         .y = in.q,
         .z = args.dout,
         .to = args.dv,
         .before = args.dstate.data,
         .after = args.dstate_in.data,
         .from_end = true},
      dk{.x = in.v,
         .y = args.dout,
         .z = in.q,
         .to = args.dk,
         .before = args.dstate.data,
         .transposed = true,
         .from_end = true};
  if (in.q.size[3] == in.v.size[3]) return sweep(std::array{dq, dv, dk}, in.slope.data, args.name, stream);
  sweep(std::array{dq, dk}, in.slope.data, args.name, stream);
  sweep(std::array{dv}, in.slope.data, args.name, stream);
}

}  // namespace headway::cuda::linear
