// Speed of softmax attention on this machine, forward and backward, beside the rate of sgemm in the same run.
// FLOP counts the visible pairs only: 4 Dh forward and 10 Dh backward for each (query, key) pair and head.
// Usage: attention_bench [T [B [H [Dh]]]], by default 1024 4 12 64.
#include <cblas.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "core/backend.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "kernels/attention/softmax.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/sliding_window.h"

namespace headway {
namespace {

/// Median seconds of a call.
template <class F>
double seconds_of(F&& call) {
  constexpr int kRuns = 9;
  std::vector<double> seconds;
  call();
  for (int i = 0; i < kRuns; ++i) {
    const auto start = std::chrono::steady_clock::now();
    call();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kRuns / 2];
}

Tensor random_tensor(const Shape& shape, uint32_t stream_id) {
  const Tensor tensor = Tensor::empty(shape, DType::f32, Device{});
  const RandomKey key{.seed = 1, .step = 0, .stream = stream_id, .first_element = 0};
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data<float>()[i] = 2 * uniform(key, static_cast<uint64_t>(i)) - 1;
  return tensor;
}

double sgemm_flops() {
  constexpr int n = 1024;
  const Tensor a = random_tensor({n, n}, 1), b = random_tensor({n, n}, 2), c = random_tensor({n, n}, 3);
  const double seconds = seconds_of([&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a.data<float>(), n, b.data<float>(), n,
                0, c.data<float>(), n);
  });
  return 2.0 * n * n * n / seconds;
}

template <class V>
void measure(const char* title, const typename V::Params& params, const Shape& shape, int64_t window,
             double sgemm) {
  const auto stream = cpu_backend().make_stream();
  const int64_t B = shape[0], T = shape[1], H = shape[2], Dh = shape[3];
  const Tensor q = random_tensor(shape, 4), k = random_tensor(shape, 5), v = random_tensor(shape, 6),
               dout = random_tensor(shape, 7), o = random_tensor(shape, 8), dq = random_tensor(shape, 9),
               dk = random_tensor(shape, 10), dv = random_tensor(shape, 11),
               lse = random_tensor({B, H, T}, 12);
  const auto in = [](const Tensor& x) { return x.view<const float, 4>("input"); };
  const auto out = [](const Tensor& x) { return x.view<float, 4>("output"); };
  const double scale = 1 / std::sqrt(static_cast<double>(Dh));
  const double forward = seconds_of([&] {
    launch(SoftmaxForward<V, float>{.q = in(q),
                                    .k = in(k),
                                    .v = in(v),
                                    .params = params,
                                    .scale = scale,
                                    .o = out(o),
                                    .log_sum_exp = lse.view<float, 3>("lse")},
           *stream);
  });
  const double backward = seconds_of([&] {
    launch(SoftmaxBackward<V, float>{.q = in(q),
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
           *stream);
  });
  double pairs = 0;
  for (int64_t t = 0; t < T; ++t) pairs += static_cast<double>(std::min(t + 1, window));
  const double flop = static_cast<double>(B * H * Dh) * pairs;
  const auto print = [&](const char* direction, double seconds, double work) {
    fmt::print("{:<16} {:<8} {:8.2f} ms {:8.1f} GFLOP/s {:6.2f} of sgemm\n", title, direction, 1e3 * seconds,
               1e-9 * work / seconds, work / seconds / sgemm);
  };
  print("forward", forward, 4 * flop);
  print("backward", backward, 10 * flop);
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  using namespace headway;
  const auto argument = [&](int i, int64_t otherwise) {
    return argc > i ? std::max<int64_t>(1, std::atoll(argv[i])) : otherwise;
  };
  const int64_t T = argument(1, 1024), B = argument(2, 4), H = argument(3, 12), Dh = argument(4, 64);
  const double sgemm = sgemm_flops();
  fmt::print("T = {}, B = {}, H = {}, Dh = {}, {} threads; sgemm 1024: {:.1f} GFLOP/s\n", T, B, H, Dh,
             omp_get_max_threads(), 1e-9 * sgemm);
  measure<attention::Plain>("plain", {}, {B, T, H, Dh}, T, sgemm);
  measure<attention::SlidingWindow>("window 256", {.window = 256}, {B, T, H, Dh}, 256, sgemm);
}
