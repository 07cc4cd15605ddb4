// Speed of softmax attention, forward and backward: on the CPU in fp32, beside the rate of sgemm in the same
// run, or on a GPU in bf16, beside bench/peers/torch_attention.py. FLOP counts the visible pairs only: 4 Dh
// forward and 10 Dh backward for each (query, key) pair and head. Of mixtures of heads it counts the rows
// that are listed, and says how their time compares with that of all rows. On a GPU also linear attention,
// beside bench/peers/fla_attention.py, with the bytes that each tensor once comes to: with a decay per head
// (lightning), normalised, and with the maps of Hedgehog and NaLaFormer before it; over lengths from 1k to
// 256k; and of one token after others, as decoding asks for, whose bytes are those of the state in and out.
//
// Usage: attention_bench [T [B [H [Dh]]]], by default 1024 4 12 64;
// attention_bench cuda [T [B [H [Dh]]]], by default the shapes of docs/performance.md;
// attention_bench cuda forward | backward | linear, a part of them.
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
#include "kernels/attention/variants/listed_rows.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/row_scaled.h"
#include "kernels/attention/variants/sink.h"
#include "kernels/attention/variants/sliding_window.h"
#include "kernels/ops/hedgehog_feature_map.h"
#include "kernels/ops/linear_attention.h"
#include "kernels/ops/norm_aware_map.h"

namespace headway {
namespace {

template <class Call>
double seconds_of(Stream& stream, Call&& call) {
  return median_seconds(stream, 9, stream.device().kind == Device::Kind::cuda ? 10 : 1, call);
}

/// Normal numbers, repeated after a while.
template <class T>
Tensor random_tensor(const Shape& shape, uint32_t stream_id, Stream& stream) {
  constexpr int64_t kPattern = 1 << 20;
  const RandomKey key{.seed = 1, .step = 0, .stream = stream_id, .first_element = 0};
  std::vector<T> values(static_cast<size_t>(std::min(kPattern, shape.numel())));
  for (size_t i = 0; i < values.size(); ++i) values[i] = T(static_cast<float>(normal(key, i)));
  const int64_t count = static_cast<int64_t>(values.size());
  const Tensor pattern = Tensor::from<T>(values, {count}, stream);
  const Tensor all = Tensor::empty(shape, dtype_of<T>, stream.device()), row = all.reshape({-1});
  for (int64_t first = 0; first < shape.numel(); first += count) {
    const int64_t last = std::min(first + count, shape.numel());
    row.slice(0, first, last).copy_from(pattern.slice(0, 0, last - first), stream);
  }
  stream.synchronize();
  return all;
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

enum class Directions { both, forward, backward };

/// Causal attention of B sequences of T tokens, H query and K key heads of Dh.
struct Job {
  int64_t B, T, H, K, Dh;
  int64_t window = 0;  // 0: none
  // Where rows are listed: heads with all rows, the first ones, and the share of rows that the others have.
  int64_t shared_heads = 0;
  double share = 1;

  double active_share() const {
    return (static_cast<double>(shared_heads) + static_cast<double>(H - shared_heads) * share) /
           static_cast<double>(H);
  }
  std::string title() const {
    std::string text = fmt::format("{} x {} x {}{} x {}", B, T, H, K == H ? "" : fmt::format("/{}", K), Dh);
    if (window > 0) text += fmt::format(", window {}", window);
    if (active_share() < 1) text += fmt::format(", {:.0f} %", 100 * active_share());
    return text;
  }
  double flop_of_products() const {
    double pairs = 0;
    for (int64_t t = 0; t < T; ++t)
      pairs += static_cast<double>(window > 0 ? std::min(t + 1, window) : t + 1);
    return static_cast<double>(2 * B * H * Dh) * pairs * active_share();
  }
  /// [B,H,T]: rows at random, ascending, -1 after the last.
  std::vector<int32_t> row_lists() const {
    const RandomKey key{.seed = 1, .step = 0, .stream = 9, .first_element = 0};
    std::vector<int32_t> rows;
    for (int64_t head = 0; head < B * H; ++head) {
      for (int64_t t = 0; t < T; ++t)
        if (head % H < shared_heads || uniform(key, static_cast<uint64_t>(head * T + t)) < share)
          rows.push_back(static_cast<int32_t>(t));
      rows.resize(static_cast<size_t>((head + 1) * T), -1);
    }
    return rows;
  }
};

/// Seconds, 0 for a direction that is not measured.
struct Times {
  double forward = 0, backward = 0;
};

/// sgemm: FLOP/s to set the others beside, if not 0.
template <class V, class T>
Times measure(const Job& job, const typename V::Params& params, Directions directions, double sgemm,
              Stream& stream) {
  const auto random = [&](int64_t heads, uint32_t id) {
    return random_tensor<T>({job.B, job.T, heads, job.Dh}, id, stream);
  };
  const auto empty = [&](int64_t heads) {
    return Tensor::empty({job.B, job.T, heads, job.Dh}, dtype_of<T>, stream.device());
  };
  const auto slot = [&](const Shape& shape) { return random_tensor<float>(shape, 8, stream); };
  const Tensor q = random(job.H, 4), k = random(job.K, 5), v = random(job.K, 6), o = empty(job.H),
               lse = Tensor::empty({job.B, job.H, job.T}, DType::f32, stream.device());
  Tensor row_scale, sink, row_index;
  if (has(V::slots, Slots::row_scale)) row_scale = slot({job.B, job.H, job.T});
  if (has(V::slots, Slots::sink)) sink = slot({job.H});
  if (has(V::slots, Slots::row_index))
    row_index = Tensor::from<int32_t>(job.row_lists(), {job.B, job.H, job.T}, stream);
  SlotViews<float> slots;
  slots.row_scale = row_scale.optional_view<const float, 3>("row_scale");
  slots.sink = sink.optional_view<const float, 1>("sink");
  slots.row_index = row_index.optional_view<const int32_t, 3>("row_index");
  const auto in = [](const Tensor& x) { return x.view<const T, 4>("input"); };
  const auto out = [](const Tensor& x) { return x.view<T, 4>("output"); };
  const double scale = 1 / std::sqrt(static_cast<double>(job.Dh));
  const auto print = [&](const char* direction, double seconds, double products) {
    const double flops = products * job.flop_of_products() / seconds;
    fmt::print("{:<32} {:<8} {:9.4f} ms {:7.1f} {}FLOP/s", job.title(), direction, 1e3 * seconds,
               flops * (sgemm > 0 ? 1e-9 : 1e-12), sgemm > 0 ? 'G' : 'T');
    if (sgemm > 0) fmt::print(" {:6.2f} of sgemm", flops / sgemm);
    fmt::print("\n");
  };
  const auto forward = [&] {
    launch(SoftmaxForward<V, T>{.q = in(q),
                                .k = in(k),
                                .v = in(v),
                                .slots = slots,
                                .params = params,
                                .scale = scale,
                                .o = out(o),
                                .log_sum_exp = lse.view<float, 3>("lse")},
           stream);
  };
  Times times;
  if (directions != Directions::backward)
    print("forward", times.forward = seconds_of(stream, forward), 2);
  else
    forward();
  if (directions == Directions::forward) return times;
  const Tensor dout = random(job.H, 7), dq = empty(job.H), dk = empty(job.K), dv = empty(job.K);
  times.backward = seconds_of(stream, [&] {
    launch(SoftmaxBackward<V, T>{.q = in(q),
                                 .k = in(k),
                                 .v = in(v),
                                 .slots = slots,
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
  print("backward", times.backward, 5);
  return times;
}

/// Three quarters, half and a quarter of the rows, the first two as mixtures with shared heads have them.
template <class T>
void measure_shares(Job job, Directions directions, double sgemm, Stream& stream) {
  const Times all = measure<attention::Plain, T>(job, {}, directions, sgemm, stream);
  for (const auto& [shared_heads, share] : {std::pair{job.H / 2, 0.5}, {job.H / 4, 1.0 / 3}, {0, 0.25}}) {
    job.shared_heads = shared_heads, job.share = share;
    const Times some = measure<attention::ListedRows, T>(job, {}, directions, sgemm, stream);
    const auto print = [&](const char* direction, double seconds, double of_all) {
      if (of_all > 0)
        fmt::print("{:<32} {:<8} {:9.3f} of the time, {:.2f} times the share\n", "", direction,
                   seconds / of_all, seconds / of_all / job.active_share());
    };
    print("forward", some.forward, all.forward);
    print("backward", some.backward, all.backward);
  }
}

template <class T>
void measure(const Job& job, Directions directions, double sgemm, Stream& stream) {
  if (job.window > 0)
    measure<attention::SlidingWindow, T>(job, {.window = static_cast<int>(job.window)}, directions, sgemm,
                                         stream);
  else
    measure<attention::Plain, T>(job, {}, directions, sgemm, stream);
}

void measure_cpu(const Job& job) {
  const auto stream = cpu_backend().make_stream();
  const double sgemm = sgemm_flops(*stream);
  fmt::print("{} threads; sgemm 1024: {:.1f} GFLOP/s\n", omp_get_max_threads(), 1e-9 * sgemm);
  measure<float>(job, Directions::both, sgemm, *stream);
  Job windowed = job;
  windowed.window = 256;
  measure<float>(windowed, Directions::both, sgemm, *stream);
  fmt::print("mixtures of heads:\n");
  measure_shares<float>(job, Directions::both, sgemm, *stream);
}

/// What is done beside the core of a linear kind: nothing but a decay per head (lightning), a normaliser, or
/// one with features of its own (NaLaFormer with rotated features); or the maps of queries and keys.
enum class LinearKind : uint8_t { decay, normalised, own_norm, hedgehog, nalaformer };

std::string_view name_of(LinearKind kind) {
  constexpr std::string_view kNames[] = {"decay", "normalised", "own norm", "Hedgehog", "NaLaFormer"};
  return kNames[static_cast<size_t>(kind)];
}

/// Linear attention of B sequences of T tokens and H heads, F features to V values; with maps, of rows of F /
/// 2 channels that become F features.
class LinearJob {
 public:
  struct Sizes {
    int64_t B, T, H, F, V;
  };
  LinearJob(const Sizes& sizes, LinearKind kind, Stream& stream)
      : d_(sizes),
        kind_(kind),
        stream_(stream),
        rows_{d_.B, d_.T, d_.H, d_.V},
        features_{d_.B, d_.T, d_.H, d_.F},
        narrow_{d_.B * d_.T, d_.H, d_.F / 2},
        q_(features(4)),
        k_(features(5)),
        v_(random_tensor<T>(rows_, 6, stream)),
        o_(empty(rows_, DType::bf16)),
        dq_(empty(features_, DType::bf16)),
        dk_(empty(features_, DType::bf16)),
        denominator_(empty({d_.B, d_.T, d_.H}, DType::f32)),
        before_(random_tensor<float>(state_shape(), 8, stream)),
        state_(empty(state_shape(), DType::f32)) {
    std::vector<float> slopes(static_cast<size_t>(d_.H));
    for (size_t h = 0; h < slopes.size(); ++h)
      slopes[h] = static_cast<float>(h + 1) / static_cast<float>(d_.H);
    slope_ = Tensor::from<float>(slopes, {d_.H}, stream);
    if (kind_ == LinearKind::own_norm)
      dnorm_q_ = empty(features_, DType::bf16), dnorm_k_ = empty(features_, DType::bf16);
    if (!has_maps()) return;
    narrow_q_ = random_tensor<T>(narrow_, 9, stream), narrow_k_ = random_tensor<T>(narrow_, 10, stream);
    weight_ = random_tensor<T>({d_.H, d_.F / 2, d_.F / 2}, 11, stream);
    dweight_ = empty(weight_.shape(), DType::f32);
    dnarrow_ = empty(narrow_, DType::bf16);
  }

  /// Forward, then backward of the same call.
  void measure() {
    const double inputs = numel(features_) * (has_maps() ? 1 : 2), values = numel(rows_);
    const double seconds = seconds_of(stream_, [&] { forward(); });
    print("forward", seconds, 2 * (inputs + 2 * values));
    const Tensor dout = random_tensor<T>(rows_, 7, stream_), dv = empty(rows_, DType::bf16);
    print("backward", seconds_of(stream_, [&] { backward(dout, dv); }), 2 * (2 * inputs + 3 * values));
  }
  /// One token after others: the state in and out.
  void measure_decoding() {
    const double seconds = seconds_of(stream_, [&] { core(before_.view<const float, 4>("state")); });
    print("decoding", seconds, 2 * sizeof(float) * numel(state_shape()));
  }

 private:
  using T = bf16;

  bool has_maps() const { return kind_ == LinearKind::hedgehog || kind_ == LinearKind::nalaformer; }
  bool normalises() const { return kind_ != LinearKind::decay; }
  Shape state_shape() const { return {d_.B, d_.H, d_.F, d_.V + (normalises() ? 1 : 0)}; }
  static double numel(const Shape& shape) { return static_cast<double>(shape.numel()); }
  Tensor empty(const Shape& shape, DType dtype) const {
    return Tensor::empty(shape, dtype, stream_.device());
  }
  Tensor features(uint32_t id) const {
    return has_maps() ? empty(features_, DType::bf16) : random_tensor<T>(features_, id, stream_);
  }
  static View<const T, 4> in(const Tensor& x) { return x.view<const T, 4>("input"); }
  static View<T, 4> out(const Tensor& x) { return x.view<T, 4>("output"); }
  Tensor by_row(const Tensor& x) const { return x.reshape({d_.B * d_.T, d_.H, x.size(-1)}); }
  Tensor by_head(const Tensor& x) const { return x.reshape({-1, x.size(-1)}); }

  NormAwareMapSettings settings(bool is_query) const {
    NormAwareMapSettings settings;
    if (is_query) settings.base = NormAwareMapSettings::Base::direction, settings.power_from_norm = true;
    return settings;
  }
  void map(const Tensor& x, const Tensor& y, bool is_query) const {
    if (kind_ == LinearKind::hedgehog)
      launch(HedgehogFeatureMapForward<T>{.x = x.view<const T, 3>("x"),
                                          .weight = weight_.view<const T, 3>("weight"),
                                          .y = by_row(y).view<T, 3>("y")},
             stream_);
    else
      launch(NormAwareMapForward<T>{.settings = settings(is_query),
                                    .x = by_head(x).view<const T, 2>("x"),
                                    .y = by_head(y).view<T, 2>("y")},
             stream_);
  }
  void map_backward(const Tensor& x, const Tensor& dy, bool is_query) const {
    if (kind_ == LinearKind::hedgehog)
      launch(HedgehogFeatureMapBackward<T>{.x = x.view<const T, 3>("x"),
                                           .weight = weight_.view<const T, 3>("weight"),
                                           .dy = by_row(dy).view<const T, 3>("dy"),
                                           .dx = dnarrow_.view<T, 3>("dx"),
                                           .dweight = dweight_.view<float, 3>("dweight")},
             stream_);
    else
      launch(NormAwareMapBackward<T>{.settings = settings(is_query),
                                     .x = by_head(x).view<const T, 2>("x"),
                                     .dy = by_head(dy).view<const T, 2>("dy"),
                                     .dx = by_head(dnarrow_).view<T, 2>("dx")},
             stream_);
  }

  LinearAttentionInputs<T> inputs() const {
    LinearAttentionInputs<T> inputs;
    inputs.q = in(q_), inputs.k = in(k_), inputs.v = in(v_);
    if (kind_ == LinearKind::own_norm) inputs.norm_q = in(q_), inputs.norm_k = in(k_);
    if (normalises())
      inputs.normalise = true, inputs.eps = 1e3;
    else
      inputs.slope = slope_.view<const float, 1>("slope");
    return inputs;
  }
  void core(const View<const float, 4>& before) const {
    LinearAttentionInputs<T> with_state = inputs();
    with_state.state = before;
    launch(LinearAttentionForward<T>{.in = with_state,
                                     .o = out(o_),
                                     .denominator = denominator_.view<float, 3>("denominator"),
                                     .state = state_.view<float, 4>("state")},
           stream_);
  }
  void forward() const {
    if (has_maps()) map(narrow_q_, q_, true), map(narrow_k_, k_, false);
    core({});
  }
  void backward(const Tensor& dout, const Tensor& dv) const {
    launch(LinearAttentionBackward<T>{.in = inputs(),
                                      .o = in(o_),
                                      .denominator = denominator_.view<const float, 3>("denominator"),
                                      .dout = in(dout),
                                      .dstate = {},
                                      .dq = out(dq_),
                                      .dk = out(dk_),
                                      .dv = out(dv),
                                      .dnorm_q = dnorm_q_.optional_view<T, 4>("dnorm_q"),
                                      .dnorm_k = dnorm_k_.optional_view<T, 4>("dnorm_k"),
                                      .dstate_in = {}},
           stream_);
    if (has_maps()) map_backward(narrow_q_, dq_, true), map_backward(narrow_k_, dk_, false);
  }
  /// bytes: of each tensor once.
  void print(const char* direction, double seconds, double bytes) const {
    fmt::print("linear {} x {} x {} x {} to {:<4} {:<10} {:<8} {:8.3f} ms {:6.0f} GB/s\n", d_.B, d_.T, d_.H,
               has_maps() ? d_.F / 2 : d_.F, d_.V, name_of(kind_), direction, 1e3 * seconds,
               1e-9 * bytes / seconds);
  }

  Sizes d_;
  LinearKind kind_;
  Stream& stream_;
  Shape rows_, features_, narrow_;
  Tensor q_, k_, v_, o_, dq_, dk_, denominator_, before_, state_;
  Tensor slope_, dnorm_q_, dnorm_k_;
  Tensor narrow_q_, narrow_k_, weight_, dweight_, dnarrow_;  // with maps
};

/// The shapes of docs/performance.md, and shapes at the edges: few and many tokens, few and narrow heads.
constexpr Job kGpuJobs[] = {
    {64, 1024, 12, 12, 64},  {16, 2048, 16, 16, 64},       {4, 8192, 32, 32, 64},
    {16, 2048, 16, 16, 128}, {4, 8192, 16, 16, 128},       {4, 8192, 16, 4, 128},
    {4, 8192, 8, 2, 128},    {4, 8192, 16, 16, 128, 1024}, {4, 8192, 32, 32, 64, 1024},
    {32, 1024, 12, 4, 64},   {256, 3, 12, 12, 64},         {64, 1000, 12, 12, 64},
    {2, 12345, 12, 12, 64},  {2, 12345, 12, 12, 128},      {32, 1024, 12, 12, 128},
    {1, 65536, 1, 1, 64},    {1, 65536, 1, 1, 128},        {1, 131072, 1, 1, 128},
    {16, 2048, 16, 16, 96},
};

void measure_linear(Stream& stream) {
  using enum LinearKind;
  const auto measure = [&](const LinearJob::Sizes& sizes, LinearKind kind) {
    LinearJob(sizes, kind, stream).measure();
  };
  measure({32, 1024, 12, 64, 64}, decay);
  measure({32, 1024, 12, 128, 64}, normalised);
  measure({8, 4096, 12, 128, 64}, normalised);
  measure({16, 2048, 16, 128, 128}, decay);
  measure({4, 8192, 32, 64, 64}, decay);
  measure({4, 8192, 16, 128, 128}, decay);
  measure({4, 8192, 32, 128, 64}, normalised);
  measure({4, 8192, 32, 128, 64}, own_norm);
  measure({4, 8192, 32, 128, 64}, hedgehog);
  measure({4, 8192, 32, 128, 64}, nalaformer);
  measure({16, 2048, 4, 256, 256}, decay);
  fmt::print("as many tokens in ever longer sequences:\n");
  constexpr int64_t kTokens = int64_t{1} << 18;
  for (const LinearKind kind : {decay, hedgehog})
    for (int64_t T = 1024; T <= kTokens; T *= 4)
      measure({kTokens / T, T, 12, kind == decay ? 64 : 128, 64}, kind);
  fmt::print("one token after others:\n");
  LinearJob({64, 1, 16, 128, 128}, decay, stream).measure_decoding();
  LinearJob({64, 1, 32, 64, 64}, decay, stream).measure_decoding();
  LinearJob({64, 1, 32, 128, 64}, normalised, stream).measure_decoding();
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  using namespace headway;
  const bool on_gpu = argc > 1 && std::string_view(argv[1]) == "cuda";
  const std::string_view part = on_gpu && argc > 2 ? argv[2] : "";
  const auto argument = [&](int i, int64_t otherwise) {
    const int at = on_gpu ? i + 1 : i;
    return argc > at ? std::max<int64_t>(1, std::atoll(argv[at])) : otherwise;
  };
  const int64_t heads = argument(3, 12);
  const Job job{argument(2, 4), argument(1, 1024), heads, heads, argument(4, 64)};
  try {
    if (!on_gpu) {
      measure_cpu(job);
      return 0;
    }
    Backend& gpu = backend({Device::Kind::cuda, 0});
    const auto stream = gpu.make_stream();
    fmt::print("{}, bf16\n", gpu.description());
    {
      const Tensor from = random_tensor<bf16>({int64_t{256} << 20}, 1, *stream),
                   to = Tensor::empty(from.shape(), DType::bf16, stream->device());
      const double bytes = 4 * static_cast<double>(from.numel());
      fmt::print("copy {:.0f} GB/s\n",
                 1e-9 * bytes / seconds_of(*stream, [&] { to.copy_from(from, *stream); }));
    }
    const bool is_part = part == "forward" || part == "backward" || part == "linear";
    const Directions directions = part == "forward"    ? Directions::forward
                                  : part == "backward" ? Directions::backward
                                                       : Directions::both;
    if (!part.empty() && !is_part) {
      measure<bf16>(job, directions, 0, *stream);
      return 0;
    }
    if (part != "linear") {
      for (const Job& one : kGpuJobs) measure<bf16>(one, directions, 0, *stream);
      const Job rows{16, 2048, 16, 16, 128};
      fmt::print("with a scale for each row, and with a sink:\n");
      measure<attention::RowScaled, bf16>(rows, {}, directions, 0, *stream);
      measure<attention::Sink, bf16>(rows, {}, directions, 0, *stream);
      fmt::print("mixtures of heads:\n");
      for (const Job& one : {Job{4, 8192, 16, 16, 128},
                             {4, 8192, 32, 32, 64},
                             {16, 2048, 16, 16, 128},
                             {64, 1024, 12, 12, 64}})
        measure_shares<bf16>(one, directions, 0, *stream);
    }
    if (part.empty() || part == "linear") measure_linear(*stream);
  } catch (const Error& error) {
    fmt::print(stderr, "attention_bench: {}\n", error.what());
    return 1;
  }
}
