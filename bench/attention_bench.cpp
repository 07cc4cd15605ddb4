// Speed of softmax attention, forward and backward: on the CPU in fp32, beside the rate of sgemm in the same
// run, or on a GPU in bf16, beside bench/peers/torch_attention.py. FLOP counts the visible pairs only: 4 Dh
// forward and 10 Dh backward for each (query, key) pair and head. On a GPU also linear attention, beside
// bench/peers/fla_attention.py: with a decay per head (lightning), and normalised (Hedgehog, NaLaFormer),
// with the bytes that each tensor once comes to.
//
// Usage: attention_bench [T [B [H [Dh]]]], by default 1024 4 12 64;
// attention_bench cuda [T [B [H [Dh]]]], by default the shapes of docs/performance.md.
#include <cblas.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/median_seconds.h"
#include "core/backend.h"
#include "core/error.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "kernels/attention/softmax.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/sliding_window.h"
#include "kernels/ops/linear_attention.h"

namespace headway {
namespace {

template <class Call>
double seconds_of(Stream& stream, Call&& call) {
  return median_seconds(stream, 9, stream.device().kind == Device::Kind::cuda ? 10 : 1, call);
}

/// Uniform between -1 and 1, repeated after a while.
template <class T>
Tensor random_tensor(const Shape& shape, uint32_t stream_id, Stream& stream) {
  constexpr size_t kPattern = 1 << 20;
  const RandomKey key{.seed = 1, .step = 0, .stream = stream_id, .first_element = 0};
  std::vector<T> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = i < kPattern ? T(2 * uniform(key, i) - 1) : values[i - kPattern];
  return Tensor::from<T>(values, shape, stream);
}

double sgemm_flops(Stream& stream) {
  constexpr int n = 1024;
  const Tensor a = random_tensor<float>({n, n}, 1, stream), b = random_tensor<float>({n, n}, 2, stream),
               c = random_tensor<float>({n, n}, 3, stream);
  const double seconds = seconds_of(stream, [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a.data<float>(), n, b.data<float>(), n,
                0, c.data<float>(), n);
  });
  return 2.0 * n * n * n / seconds;
}

/// sgemm: FLOP/s to set the others beside, if not 0.
template <class V, class T>
void measure(const char* title, const typename V::Params& params, const Shape& shape, int64_t window,
             double sgemm, Stream& stream) {
  const int64_t B = shape[0], length = shape[1], H = shape[2], Dh = shape[3];
  const auto random = [&](uint32_t id) { return random_tensor<T>(shape, id, stream); };
  const Tensor q = random(4), k = random(5), v = random(6), dout = random(7);
  const auto empty = [&](DType dtype) { return Tensor::empty(shape, dtype, stream.device()); };
  const Tensor o = empty(q.dtype()), dq = empty(q.dtype()), dk = empty(q.dtype()), dv = empty(q.dtype()),
               lse = Tensor::empty({B, H, length}, DType::f32, stream.device());
  const auto in = [](const Tensor& x) { return x.view<const T, 4>("input"); };
  const auto out = [](const Tensor& x) { return x.view<T, 4>("output"); };
  const double scale = 1 / std::sqrt(static_cast<double>(Dh));
  const double forward = seconds_of(stream, [&] {
    launch(SoftmaxForward<V, T>{.q = in(q),
                                .k = in(k),
                                .v = in(v),
                                .params = params,
                                .scale = scale,
                                .o = out(o),
                                .log_sum_exp = lse.view<float, 3>("lse")},
           stream);
  });
  const double backward = seconds_of(stream, [&] {
    launch(SoftmaxBackward<V, T>{.q = in(q),
                                 .k = in(k),
                                 .v = in(v),
                                 .params = params,
                                 .scale = scale,
                                 .y = in(o),
                                 .log_sum_exp = lse.view<const float, 3>("lse"),
                                 .dout = in(dout),
                                 .dq = out(dq),
                                 .dk = out(dk),
                                 .dv = out(dv)},
           stream);
  });
  double pairs = 0;
  for (int64_t t = 0; t < length; ++t) pairs += static_cast<double>(std::min(t + 1, window));
  const double flop = static_cast<double>(B * H * Dh) * pairs;
  const auto print = [&](const char* direction, double seconds, double work) {
    fmt::print("{:<22} {:<8} {:8.3f} ms {:10.1f} GFLOP/s", title, direction, 1e3 * seconds,
               1e-9 * work / seconds);
    if (sgemm > 0) fmt::print(" {:6.2f} of sgemm", work / seconds / sgemm);
    fmt::print("\n");
  };
  print("forward", forward, 4 * flop);
  print("backward", backward, 10 * flop);
}

void measure_cpu(const Shape& shape) {
  const auto stream = cpu_backend().make_stream();
  const double sgemm = sgemm_flops(*stream);
  fmt::print("T = {}, B = {}, H = {}, Dh = {}, {} threads; sgemm 1024: {:.1f} GFLOP/s\n", shape[1], shape[0],
             shape[2], shape[3], omp_get_max_threads(), 1e-9 * sgemm);
  measure<attention::Plain, float>("plain", {}, shape, shape[1], sgemm, *stream);
  measure<attention::SlidingWindow, float>("window 256", {.window = 256}, shape, 256, sgemm, *stream);
}

/// q and k [B,T,H,F], v [B,T,H,V]; normalised, or with a decay per head.
void measure_linear(const Shape& features, int64_t V, bool normalise, Stream& stream) {
  using T = bf16;
  const int64_t B = features[0], length = features[1], H = features[2], F = features[3];
  const Shape rows{B, length, H, V}, states{B, H, F, V + (normalise ? 1 : 0)};
  const Tensor q = random_tensor<T>(features, 4, stream), k = random_tensor<T>(features, 5, stream),
               v = random_tensor<T>(rows, 6, stream), dout = random_tensor<T>(rows, 7, stream);
  std::vector<float> slopes(static_cast<size_t>(H));
  for (size_t h = 0; h < slopes.size(); ++h) slopes[h] = static_cast<float>(h + 1) / static_cast<float>(H);
  const Tensor slope = Tensor::from<float>(slopes, {H}, stream);
  const auto empty = [&](const Shape& shape, DType dtype) {
    return Tensor::empty(shape, dtype, stream.device());
  };
  const Tensor o = empty(rows, DType::bf16), dq = empty(features, DType::bf16),
               dk = empty(features, DType::bf16), dv = empty(rows, DType::bf16),
               denominator = empty({B, length, H}, DType::f32), state = empty(states, DType::f32);
  const auto in = [](const Tensor& x) { return x.view<const T, 4>("input"); };
  const auto out = [](const Tensor& x) { return x.view<T, 4>("output"); };
  LinearAttentionInputs<T> inputs;
  inputs.q = in(q), inputs.k = in(k), inputs.v = in(v);
  if (normalise)
    inputs.normalise = true, inputs.eps = 1e3;
  else
    inputs.slope = slope.view<const float, 1>("slope");
  const double forward = seconds_of(stream, [&] {
    launch(LinearAttentionForward<T>{.in = inputs,
                                     .o = out(o),
                                     .denominator = denominator.view<float, 3>("denominator"),
                                     .state = state.view<float, 4>("state")},
           stream);
  });
  const double backward = seconds_of(stream, [&] {
    launch(LinearAttentionBackward<T>{.in = inputs,
                                      .o = in(o),
                                      .denominator = denominator.view<const float, 3>("denominator"),
                                      .dout = in(dout),
                                      .dstate = {},
                                      .dq = out(dq),
                                      .dk = out(dk),
                                      .dv = out(dv),
                                      .dnorm_q = {},
                                      .dnorm_k = {},
                                      .dstate_in = {}},
           stream);
  });
  // Each tensor once: q, k, v, o, and q, k, v, dout, dq, dk, dv.
  const double tokens = static_cast<double>(B * length * H),
               forward_bytes = tokens * 2 * static_cast<double>(2 * F + 2 * V),
               backward_bytes = tokens * 2 * static_cast<double>(4 * F + 3 * V);
  const auto print = [&](const char* direction, double seconds, double bytes) {
    fmt::print("linear {} x {} x {} x {} to {:<4} {:<10} {:<8} {:8.3f} ms {:6.0f} GB/s\n", B, length, H, F, V,
               normalise ? "normalised" : "decay", direction, 1e3 * seconds, 1e-9 * bytes / seconds);
  };
  print("forward", forward, forward_bytes);
  print("backward", backward, backward_bytes);
}

void measure_gpu(const std::vector<Shape>& shapes, bool linear) {
  Backend& gpu = backend({Device::Kind::cuda, 0});
  const auto stream = gpu.make_stream();
  fmt::print("{}, bf16\n", gpu.description());
  for (const Shape& shape : shapes) {
    const std::string title = fmt::format("{} x {} x {} x {}", shape[0], shape[1], shape[2], shape[3]);
    measure<attention::Plain, bf16>(title.c_str(), {}, shape, shape[1], 0, *stream);
  }
  if (!linear) return;
  measure_linear({32, 1024, 12, 64}, 64, false, *stream);
  measure_linear({32, 1024, 12, 128}, 64, true, *stream);
  measure_linear({8, 4096, 12, 128}, 64, true, *stream);
  measure_linear({16, 2048, 16, 128}, 128, false, *stream);
  measure_linear({4, 8192, 32, 64}, 64, false, *stream);
  measure_linear({4, 8192, 16, 128}, 128, false, *stream);
  measure_linear({4, 8192, 32, 128}, 64, true, *stream);
  measure_linear({16, 2048, 4, 256}, 256, false, *stream);
  for (const int64_t T : {1024, 8192, 131072})  // as many tokens at every length
    measure_linear({131072 / T, T, 12, 64}, 64, false, *stream);
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  using namespace headway;
  const bool on_gpu = argc > 1 && std::string_view(argv[1]) == "cuda";
  const auto argument = [&](int i, int64_t otherwise) {
    const int at = on_gpu ? i + 1 : i;
    return argc > at ? std::max<int64_t>(1, std::atoll(argv[at])) : otherwise;
  };
  const Shape shape{argument(2, 4), argument(1, 1024), argument(3, 12), argument(4, 64)};
  try {
    if (!on_gpu)
      measure_cpu(shape);
    else if (argc > 2)
      measure_gpu({shape}, false);
    else
      measure_gpu({{64, 1024, 12, 64}, {16, 2048, 16, 64}, {16, 2048, 16, 128}, {4, 8192, 16, 128}}, true);
  } catch (const Error& error) {
    fmt::print(stderr, "attention_bench: {}\n", error.what());
    return 1;
  }
}
