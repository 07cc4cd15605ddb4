// Memory speed of the ordinary operations on a GPU in bf16: GB/s of the bytes that each must move, beside the
// copy bandwidth measured in the same run. Tensors of 64 MiB and more, so that nothing stays in a cache.
// Usage: ops_bench [rows], by default 65536 rows of 768 (3072 in feed-forward layers, 50304 logits).
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "autograd/ops/flat.h"
#include "bench/median_seconds.h"
#include "core/backend.h"
#include "core/error.h"
#include "core/rng.h"
#include "kernels/ops/accumulate.h"
#include "kernels/ops/activation.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/causal_conv.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/gated_norm.h"
#include "kernels/ops/hedgehog_map.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/norm_aware_map.h"
#include "kernels/ops/norm_rope.h"
#include "kernels/ops/rope.h"

namespace headway {
namespace {

constexpr int64_t kWidth = 768, kHidden = 3072, kVocab = 50304, kTokens = 1024, kHeads = 12;

class Bench {
 public:
  explicit Bench(Stream& stream) : stream_(stream) {
    const Tensor from = random({int64_t{256} << 20}, DType::bf16), to = empty(from.shape(), DType::bf16);
    copy_ = 2 * bytes_of(from) / seconds_of([&] { to.copy_from(from, stream_); });
    fmt::print("{}\ncopy: {:.0f} GB/s\n{:<26} {:>9} {:>9} {:>8} {:>9}\n",
               backend(stream.device()).description(), copy_ / 1e9, "operation", "MiB", "us", "GB/s",
               "of copy");
  }

  Tensor empty(const Shape& shape, DType dtype) const {
    return Tensor::empty(shape, dtype, stream_.device());
  }
  Tensor zeros(const Shape& shape, DType dtype) const { return Tensor::zeros(shape, dtype, stream_); }
  /// Of about unit size.
  Tensor random(const Shape& shape, DType dtype) const {
    constexpr int64_t kPattern = 1 << 16;
    std::vector<bf16> values(static_cast<size_t>(shape.numel()));
    const RandomKey key{.seed = 1, .step = 0, .stream = 0, .first_element = 0};
    for (int64_t i = 0; i < std::min(kPattern, shape.numel()); ++i)
      values[static_cast<size_t>(i)] = bf16(static_cast<float>(normal(key, static_cast<uint64_t>(i))));
    for (size_t i = kPattern; i < values.size(); ++i) values[i] = values[i - kPattern];
    const Tensor tensor = Tensor::from<bf16>(values, shape, stream_);
    if (dtype == DType::bf16) return tensor;
    const Tensor wide = empty(shape, DType::f32);
    launch(
        Accumulate<float, bf16>{
            .to = flat<float>(wide, "wide"), .from = flat<const bf16>(tensor, "tensor"), .overwrite = true},
        stream_);
    return wide;
  }
  static double bytes_of(const Tensor& tensor) {
    return static_cast<double>(tensor.numel()) * static_cast<double>(size_of(tensor.dtype()));
  }

  template <class Args>
  void measure(const std::string& name, double bytes, const Args& args) {
    const double rate = bytes / seconds_of([&] { launch(args, stream_); });
    fmt::print("{:<26} {:>9.0f} {:>9.1f} {:>8.0f} {:>8.0f}%\n", name, bytes / (1 << 20), 1e6 * bytes / rate,
               rate / 1e9, 100 * rate / copy_);
  }

 private:
  double seconds_of(const std::function<void()>& work) const { return median_seconds(stream_, 7, 20, work); }

  Stream& stream_;
  double copy_ = 0;
};

void run(int64_t N) {
  const Device device{Device::Kind::cuda, 0};
  const auto stream = backend(device).make_stream();
  Bench bench(*stream);
  using T = bf16;
  const auto view = [](const Tensor& x) { return x.view<T, 2>("x"); };
  const auto read = [](const Tensor& x) { return x.view<const T, 2>("x"); };
  const auto numbers = [](const Tensor& x) { return x.view<float, 1>("x"); };
  const auto line = [](const Tensor& x) { return flat<T>(x, "x"); };
  const auto line_read = [](const Tensor& x) { return flat<const T>(x, "x"); };
  {
    const Tensor a = bench.random({N, kWidth}, DType::bf16), b = bench.random({N, kWidth}, DType::bf16),
                 y = bench.empty({N, kWidth}, DType::bf16), sum = bench.empty({N, kWidth}, DType::bf16),
                 weight = bench.random({kWidth}, DType::f32), bias = bench.random({kWidth}, DType::f32),
                 mean = bench.zeros({N}, DType::f32), inverse = bench.random({N}, DType::f32),
                 dweight = bench.zeros({kWidth}, DType::f32), dbias = bench.zeros({kWidth}, DType::f32);
    const double row = Bench::bytes_of(a);
    bench.measure("add", 3 * row, AddForward<T>{.a = line_read(a), .b = line_read(b), .y = line(y)});
    bench.measure("accumulate", 3 * row, Accumulate<T, T>{.to = line(y), .from = line_read(b)});
    bench.measure("dropout", 2 * row,
                  DropoutMask<T>{.x = line_read(a), .y = line(y), .key = {1, 0, 0, 0}, .rate = 0.1});
    for (const NormKind kind : {NormKind::rms, NormKind::layer}) {
      const std::string name = kind == NormKind::rms ? "rms_norm" : "layer_norm";
      bench.measure(name + "_forward", 2 * row,
                    NormForward<T>{.kind = kind,
                                   .eps = 1e-5,
                                   .x = read(a),
                                   .weight = numbers(weight),
                                   .bias = numbers(bias),
                                   .y = view(y),
                                   .mean = numbers(mean),
                                   .inverse = numbers(inverse)});
      bench.measure("add and " + name + "_forward", 4 * row,
                    NormForward<T>{.kind = kind,
                                   .eps = 1e-5,
                                   .x = read(a),
                                   .weight = numbers(weight),
                                   .bias = numbers(bias),
                                   .update = read(b),
                                   .sum = view(sum),
                                   .y = view(y),
                                   .mean = numbers(mean),
                                   .inverse = numbers(inverse)});
      for (const bool adds : {false, true})
        bench.measure(name + (adds ? "_backward, added" : "_backward"), (adds ? 4 : 3) * row,
                      NormBackward<T>{.kind = kind,
                                      .dy = read(b),
                                      .x = read(a),
                                      .weight = numbers(weight),
                                      .mean = numbers(mean),
                                      .inverse = numbers(inverse),
                                      .added = adds ? read(y) : View<const T, 2>(),
                                      .dx = view(y),
                                      .dweight = numbers(dweight),
                                      .dbias = numbers(dbias)});
    }
    const Tensor gate = bench.random({N, kWidth}, DType::bf16), dgate = bench.empty({N, kWidth}, DType::bf16);
    bench.measure("silu_forward", 2 * row, SiluForward<T>{.x = line_read(a), .y = line(y)});
    bench.measure("silu_backward", 3 * row,
                  SiluBackward<T>{.dy = line_read(a), .x = line_read(b), .dx = line(y)});
    bench.measure("gated_norm_forward", 3 * row,
                  GatedNormForward<T>{.eps = 1e-6,
                                      .x = read(a),
                                      .weight = {},
                                      .gate = read(gate),
                                      .y = view(y),
                                      .inverse = numbers(mean)});
    bench.measure("gated_norm_backward", 5 * row,
                  GatedNormBackward<T>{.dy = read(b),
                                       .x = read(a),
                                       .weight = {},
                                       .gate = read(gate),
                                       .inverse = numbers(inverse),
                                       .dx = view(y),
                                       .dgate = view(dgate),
                                       .dweight = {}});
    bench.measure("column_sum", row, ColumnSum<T>{.x = read(a), .sum = numbers(dbias)});
    const Shape heads{N / kTokens, kTokens, kHeads, kWidth / kHeads};
    const Tensor table = bench.random({kTokens, kWidth / kHeads / 2, 2}, DType::f32);
    bench.measure("rope", 2 * row,
                  RopeRotate<T>{.x = a.reshape(heads).view<const T, 4>("x"),
                                .table = table.view<const float, 3>("table"),
                                .y = y.reshape(heads).view<T, 4>("y")});
    const Tensor head_weight = bench.random({kWidth / kHeads}, DType::f32),
                 dhead_weight = bench.zeros({kWidth / kHeads}, DType::f32),
                 head_inverse = bench.random({N * kHeads}, DType::f32);
    bench.measure("norm_rope_forward", 2 * row,
                  NormRopeForward<T>{.eps = 1e-6,
                                     .x = a.reshape(heads).view<const T, 4>("x"),
                                     .weight = numbers(head_weight),
                                     .table = table.view<const float, 3>("table"),
                                     .y = y.reshape(heads).view<T, 4>("y"),
                                     .inverse = numbers(head_inverse)});
    bench.measure("norm_rope_backward", 3 * row,
                  NormRopeBackward<T>{.dy = b.reshape(heads).view<const T, 4>("dy"),
                                      .x = a.reshape(heads).view<const T, 4>("x"),
                                      .weight = numbers(head_weight),
                                      .table = table.view<const float, 3>("table"),
                                      .inverse = numbers(head_inverse),
                                      .dx = y.reshape(heads).view<T, 4>("dx"),
                                      .dweight = numbers(dhead_weight)});
    const Shape head_rows{N * kHeads, kWidth / kHeads}, feature_rows{N * kHeads, 2 * kWidth / kHeads};
    const Tensor features = bench.empty(feature_rows, DType::bf16),
                 dfeatures = bench.random(feature_rows, DType::bf16),
                 lambda = Tensor::from<float>(std::vector<float>{3}, {1}, *stream),
                 dlambda = bench.zeros({1}, DType::f32);
    using NormAware = NormAwareMapSettings;
    const NormAware query_map{.base = NormAware::Base::direction, .power_from_norm = true};
    bench.measure("norm_aware_map_forward", 3 * row,
                  NormAwareMapForward<T>{.settings = query_map,
                                         .x = read(a.reshape(head_rows)),
                                         .lambda = numbers(lambda),
                                         .y = view(features)});
    bench.measure("norm_aware_map_backward", 4 * row,
                  NormAwareMapBackward<T>{.settings = query_map,
                                          .x = read(a.reshape(head_rows)),
                                          .lambda = numbers(lambda),
                                          .dy = read(dfeatures),
                                          .dx = view(y.reshape(head_rows)),
                                          .dlambda = numbers(dlambda)});
    bench.measure("hedgehog_map_forward", 3 * row,
                  HedgehogMapForward<T>{.u = read(a.reshape(head_rows)), .y = view(features)});
    bench.measure(
        "hedgehog_map_backward", 5 * row,
        HedgehogMapBackward<T>{.y = read(features), .dy = read(dfeatures), .du = view(y.reshape(head_rows))});
    const Shape sequences{N / kTokens, kTokens, kWidth};
    const Tensor taps = bench.random({kWidth, 4}, DType::bf16), dtaps = bench.zeros({kWidth, 4}, DType::f32);
    const auto in_sequences = [&](const Tensor& x) { return x.reshape(sequences).view<const T, 3>("x"); };
    const CausalConvInputs<T> conv{.x = in_sequences(a), .history = {}, .weight = read(taps), .silu = true};
    bench.measure("causal_conv_forward", 2 * row,
                  CausalConvForward<T>{.in = conv, .y = y.reshape(sequences).view<T, 3>("y")});
    bench.measure("causal_conv_backward", 3 * row,
                  CausalConvBackward<T>{.in = conv,
                                        .dy = in_sequences(b),
                                        .dx = y.reshape(sequences).view<T, 3>("dx"),
                                        .dhistory = {},
                                        .dweight = dtaps.view<float, 2>("dweight")});
    std::vector<int32_t> ids(static_cast<size_t>(N));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7919 % kVocab);
    const Tensor tokens = Tensor::from<int32_t>(ids, {N}, *stream),
                 rows = bench.random({kVocab, kWidth}, DType::bf16);
    bench.measure(
        "embedding_forward", 2 * row,
        EmbeddingForward<T>{.ids = tokens.view<const int32_t, 1>("ids"), .weight = read(rows), .y = view(y)});
  }
  {
    const Tensor a = bench.random({N, kHidden}, DType::bf16), b = bench.random({N, kHidden}, DType::bf16),
                 c = bench.random({N, kHidden}, DType::bf16), y = bench.empty({N, kHidden}, DType::bf16),
                 z = bench.empty({N, kHidden}, DType::bf16);
    const double row = Bench::bytes_of(a);
    const Tensor sum = bench.empty({kHidden}, DType::f32);
    bench.measure("column_sum, hidden", row, ColumnSum<T>{.x = read(a), .sum = numbers(sum)});
    bench.measure("gelu_forward", 2 * row, GeluForward<T>{.x = line_read(a), .y = line(y)});
    bench.measure("gelu_backward", 3 * row,
                  GeluBackward<T>{.dy = line_read(a), .x = line_read(b), .dx = line(y)});
    bench.measure("swiglu_forward", 3 * row,
                  SwiGluForward<T>{.gate = line_read(a), .up = line_read(b), .y = line(y)});
    bench.measure(
        "swiglu_backward", 5 * row,
        SwiGluBackward<T>{
            .dy = line_read(a), .gate = line_read(b), .up = line_read(c), .dgate = line(y), .dup = line(z)});
  }
  {
    const Tensor logits = bench.random({N / 4, kVocab}, DType::bf16),
                 losses = bench.empty({N / 4}, DType::f32), targets = bench.zeros({N / 4}, DType::i32);
    for (const bool writes : {false, true})
      bench.measure(writes ? "cross_entropy, gradient" : "cross_entropy",
                    (writes ? 2 : 1) * Bench::bytes_of(logits),
                    CrossEntropy<T>{.logits = view(logits),
                                    .targets = targets.view<const int32_t, 1>("targets"),
                                    .losses = numbers(losses),
                                    .write_gradient = writes});
  }
  {
    const int64_t count = int64_t{124} << 20;
    const Tensor p = bench.random({count}, DType::f32), m = bench.zeros({count}, DType::f32),
                 v = bench.zeros({count}, DType::f32), grad = bench.random({count}, DType::f32),
                 rounded = bench.empty({count}, DType::bf16), sum = bench.zeros({1}, DType::f64),
                 grad_scale = bench.zeros({1}, DType::f64);
    const AdamWParameter<float> parameter{.p = numbers(p),
                                          .m = numbers(m),
                                          .v = numbers(v),
                                          .grad = numbers(grad),
                                          .rounded = rounded.view<T, 1>("rounded"),
                                          .decay = 0.1};
    bench.measure("adamw", static_cast<double>(count) * 30,
                  AdamWUpdate<float>{.parameters = std::span(&parameter, 1),
                                     .grad_scale = grad_scale.view<const double, 1>("grad_scale"),
                                     .lr = 1e-3,
                                     .beta1 = 0.9,
                                     .beta2 = 0.95,
                                     .eps = 1e-8});
    bench.measure("sum_squares", Bench::bytes_of(grad),
                  SumSquares<float>{.x = numbers(grad), .sum = sum.view<double, 1>("sum")});
  }
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  try {
    headway::run(argc > 1 ? std::max(1024L, std::atol(argv[1]) / 1024 * 1024) : 65536);
  } catch (const headway::Error& error) {
    fmt::print(stderr, "ops_bench: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
