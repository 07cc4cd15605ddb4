// The forward pass of softmax attention in bf16 on the GPU against the definition in double, at the sizes
// where tiles begin and end: strided inputs with NaN behind the last row, outputs that hold NaN before.
#include <limits>
#include <utility>

#include "kernels/attention/softmax_reference.h"
#include "kernels/attention/variants/key_masked.h"
#include "kernels/attention/variants/listed_rows.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/row_scaled.h"
#include "kernels/attention/variants/sink.h"
#include "kernels/attention/variants/sliding_window.h"
#include "kernels/kernel_choice.h"
#include "tests/cuda/gpu_test.h"
#include "tests/kernels/attention/policies.h"
#include "tests/support/rounded_bf16.h"
#include "tests/support/tolerance.h"

namespace headway::testing {
namespace {

struct Size {
  int64_t B, T, H, K, Dh;
  int64_t Tk = T;
  int64_t query_offset = 0;
};

/// Of one number type: what goes in, and views of it.
template <class V, class T>
struct Inputs {
  Tensor q, k, v;
  Tensor row_scale, sink, key_bias, key_end, row_index;

  SoftmaxForward<V, T> call(const typename V::Params& params, const Size& size) const {
    using A = Acc<T>;
    SoftmaxForward<V, T> args;
    args.q = q.view<const T, 4>("q");
    args.k = k.view<const T, 4>("k");
    args.v = v.view<const T, 4>("v");
    args.slots.row_scale = row_scale.optional_view<const A, 3>("row_scale");
    args.slots.sink = sink.optional_view<const A, 1>("sink");
    args.slots.key_bias = key_bias.optional_view<const A, 3>("key_bias");
    args.slots.key_end = key_end.optional_view<const int32_t, 3>("key_end");
    args.slots.row_index = row_index.optional_view<const int32_t, 3>("row_index");
    args.params = params;
    args.scale = 1 / std::sqrt(static_cast<double>(size.Dh));
    args.query_offset = size.query_offset;
    return args;
  }
};

constexpr Device kGpu{Device::Kind::cuda, 0};

/// o, log_sum_exp and, where rows are scaled, y.
using Results = std::vector<std::vector<double>>;

class GpuSoftmaxForward : public GpuTest {
 protected:
  template <class V, class T>
  Inputs<V, T> inputs(const Size& d, Stream& stream) const {
    using A = Acc<T>;
    Inputs<V, T> in;
    const auto slot = [&](const Shape& shape, uint32_t which) {
      return Tensor::from<A>(random_values<A>(shape.numel(), seed_, which), shape, stream);
    };
    // q, k and v are parts of one tensor, as after a fused projection, with rows behind the last ones.
    const int64_t length = std::max(d.T, d.Tk) + 3, heads = d.H + 2 * d.K;
    std::vector<T> fused;
    for (const float x : random_values<float>(d.B * length * heads * d.Dh, seed_, 1))
      fused.push_back(static_cast<T>(static_cast<float>(bf16(x))));
    const auto behind_last = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
    for (size_t i = 0; i < fused.size(); ++i) {
      const int64_t place = static_cast<int64_t>(i) / d.Dh, row = place / heads % length;
      if (row >= (place % heads < d.H ? d.T : d.Tk)) fused[i] = behind_last;
    }
    const Tensor all = Tensor::from<T>(fused, {d.B, length, heads, d.Dh}, stream);
    in.q = all.slice(1, 0, d.T).slice(2, 0, d.H);
    in.k = all.slice(1, 0, d.Tk).slice(2, d.H, d.H + d.K);
    in.v = all.slice(1, 0, d.Tk).slice(2, d.H + d.K, heads);
    if (has(V::slots, Slots::row_scale)) in.row_scale = slot({d.B, d.H, d.T}, 2);
    if (has(V::slots, Slots::sink)) in.sink = slot({d.H}, 3);
    if (has(V::slots, Slots::key_bias)) in.key_bias = Tensor::zeros({d.B, d.K, d.Tk}, dtype_of<A>, stream);
    if (has(V::slots, Slots::key_end))
      in.key_end = Tensor::from<int32_t>(
          std::vector<int32_t>(static_cast<size_t>(d.B * d.K * d.Tk), std::numeric_limits<int32_t>::max()),
          {d.B, d.K, d.Tk}, stream);
    if (has(V::slots, Slots::row_index))
      in.row_index =
          Tensor::from<int32_t>(row_lists_of_any_share(d.B * d.H, d.T, seed_), {d.B, d.H, d.T}, stream);
    return in;
  }

  /// launch: void(const SoftmaxForward<V, T>&, Stream&), called once more for each repetition, with new
  /// outputs that must get the same bits.
  template <class V, class T, class Launch>
  Results run(const typename V::Params& params, const Size& d, Device device, Launch launch,
              int repetitions = 0) const {
    const auto own_stream = backend(device).make_stream();
    Stream& stream = *own_stream;
    const Inputs<V, T> in = inputs<V, T>(d, stream);
    const auto outputs = [&] {
      const Shape rows{d.B, d.T, d.H, d.Dh};
      const Tensor o = Tensor::empty(rows, dtype_of<T>, device), y = Tensor::empty(rows, dtype_of<T>, device),
                   log_sum_exp = Tensor::empty({d.B, d.H, d.T}, dtype_of<Acc<T>>, device);
      SoftmaxForward<V, T> args = in.call(params, d);
      args.o = o.view<T, 4>("o");
      if (kScalesRows<V>) args.y = y.view<T, 4>("y");
      args.log_sum_exp = log_sum_exp.view<Acc<T>, 3>("log_sum_exp");
      launch(args, stream);
      Results results{to_doubles(o, stream), to_doubles(log_sum_exp, stream)};
      if (kScalesRows<V>) results.push_back(to_doubles(y, stream));
      return results;
    };
    const Results results = outputs();
    for (int n = 0; n < repetitions; ++n) EXPECT_TRUE(outputs() == results) << "launch " << n + 2;
    return results;
  }

  template <class V>
  Results on_gpu(const typename V::Params& params, const Size& d, int repetitions = 0) const {
    return run<V, bf16>(
        params, d, kGpu, [](const auto& args, Stream& stream) { launch(args, stream); }, repetitions);
  }

  template <class V>
  void check(const Size& d, const typename V::Params& params = {}, int repetitions = 3) const {
    SCOPED_TRACE("B " + std::to_string(d.B) + ", T " + std::to_string(d.T) + ", Tk " + std::to_string(d.Tk) +
                 ", H " + std::to_string(d.H) + ", K " + std::to_string(d.K) + ", Dh " +
                 std::to_string(d.Dh) + ", query_offset " + std::to_string(d.query_offset));
    const Results exact = run<V, double>(params, d, Device{}, [](const auto& args, Stream& stream) {
      softmax_reference_forward<Exact<double>>(args, stream);
    });
    const Results rounded = run<V, float>(params, d, Device{}, [](const auto& args, Stream& stream) {
      softmax_reference_forward<RoundedBf16>(args, stream);
    });
    const Results first = [&] {
      const GuardedMemory guarded(kGpu);
      return on_gpu<V>(params, d, repetitions);
    }();
    const char* const names[] = {"o", "log_sum_exp", "y"};
    for (size_t i = 0; i < exact.size(); ++i) {
      SCOPED_TRACE(names[i]);
      const auto errors = [&](const Results& results) {
        return error_of(std::span<const double>(results[i]), std::span<const double>(exact[i]));
      };
      const Error error = errors(first), yardstick = errors(rounded);
      // Rows are rounded to bf16 at the end, log-sum-exps are sums of fp32.
      const double rounding = i == 1 ? 0x1p-16 : 0x1p-8;
      EXPECT_LE(error.largest,
                2 * yardstick.largest + rounding * (i == 1 ? 1 + error.magnitude : error.magnitude));
      EXPECT_LE(error.rms, 2 * yardstick.rms + rounding / 2);
    }
  }
};

constexpr int64_t kLengths[] = {1, 3, 63, 64, 65, 127, 128, 129, 191, 193, 1000};
constexpr int64_t kWidths[] = {64, 128};

TEST_F(GpuSoftmaxForward, PlainRowsOfAnyLength) {
  for (const int64_t Dh : kWidths) {
    for (const int64_t T : kLengths) check<attention::Plain>({2, T, 3, 1, Dh});
    check<attention::Plain>({1, 2049, 1, 1, Dh});
    check<attention::Plain>({2, 2049, 6, 2, Dh});  // as many tiles as multiprocessors
  }
}

TEST_F(GpuSoftmaxForward, HeadsNarrowerThanATile) {
  for (const int64_t Dh : {8, 40, 80, 96, 120}) check<attention::Plain>({2, 300, 2, 2, Dh});
}

TEST_F(GpuSoftmaxForward, QueriesBehindAPastOfKeys) {
  for (const int64_t Dh : kWidths)
    for (const int64_t T : {1, 65, 200})
      for (const int64_t past : {1, 63, 129, 500}) {
        check<attention::Plain>({2, T, 4, 2, Dh, T + past, past});
        check<attention::SlidingWindow>({2, T, 4, 2, Dh, T + past, past}, {.window = 100});
      }
  check<attention::Plain>({11, 5, 12, 4, 64, 1100, 1095});  // long rows, a tile for every multiprocessor
}

TEST_F(GpuSoftmaxForward, KeysBehindTheLastQueryAreNotSeen) {
  for (const int64_t Dh : kWidths) check<attention::Plain>({1, 130, 2, 1, Dh, 400, 0});
}

TEST_F(GpuSoftmaxForward, Windows) {
  for (const int64_t Dh : kWidths)
    for (const int64_t T : {65, 1000})
      for (const int window : {1, 7, 64, 130, 500})
        check<attention::SlidingWindow>({1, T, 2, 1, Dh}, {.window = window});
  check<attention::SlidingWindow>({2, 2300, 6, 2, 64}, {.window = 2100});
}

TEST_F(GpuSoftmaxForward, RowsWithoutKeysAreZero) {
  for (const int64_t Dh : kWidths) {
    check<attention::SlidingWindow>({1, 300, 2, 1, Dh, 50, 0}, {.window = 20});
    check<attention::Sink>({1, 300, 2, 1, Dh, 50, 0}, {.window = 20});
    check<attention::RowScaled>({1, 300, 2, 1, Dh, 50, 0}, {.window = 20});
    check<Documents>({2, 300, 2, 1, Dh}, {.length = 70});
    check<Documents>({1, 1, 1, 1, Dh}, {.length = 1});
  }
}

TEST_F(GpuSoftmaxForward, SinksAndScaledRows) {
  for (const int64_t Dh : kWidths)
    for (const int64_t T : {1, 129, 1000})
      for (const int window : {0, 100}) {
        check<attention::Sink>({2, T, 4, 2, Dh}, {.window = window});
        check<attention::RowScaled>({2, T, 4, 2, Dh}, {.window = window});
      }
  check<attention::RowScaled>({2, 2049, 6, 2, 64});
}

TEST_F(GpuSoftmaxForward, ListedRows) {
  for (const int64_t Dh : {40, 64, 128})
    for (const int64_t T : kLengths)
      for (const int window : {0, 100}) check<attention::ListedRows>({2, T, 6, 2, Dh}, {.window = window});
  for (const int64_t Dh : kWidths) {
    check<attention::ListedRows>({1, 2049, 9, 3, Dh});
    check<attention::ListedRows>({2, 200, 4, 2, Dh, 700, 500}, {.window = 60});
    check<attention::ListedRows>({1, 300, 4, 1, Dh, 50, 0}, {.window = 20});  // rows without keys
  }
}

TEST_F(GpuSoftmaxForward, SeveralIntervals) {
  for (const int64_t Dh : kWidths)
    for (const int64_t T : {1, 100, 1100})
      check<FirstAndWindow>({1, T, 2, 1, Dh}, {.first = 5, .window = 130});
  check<FirstAndWindow>({12, 2100, 1, 1, 64}, {.first = 1024, .window = 30});
}

TEST_F(GpuSoftmaxForward, BitsRepeatOverManyLaunches) {
  check<attention::Plain>({4, 1000, 12, 4, 64}, {}, 60);
  check<attention::Plain>({2, 2049, 6, 2, 64}, {}, 60);
  check<attention::Plain>({4, 1000, 12, 4, 128}, {}, 60);
  check<attention::ListedRows>({4, 1000, 12, 4, 64}, {}, 60);
  check<attention::ListedRows>({4, 1000, 12, 4, 128}, {}, 60);
}

// Keys without a bias and an end: kernels of another design.
TEST_F(GpuSoftmaxForward, AgreesWithTheKernelsOfEveryVariant) {
  for (const int64_t Dh : kWidths)
    for (const Size& d : {Size{2, 1000, 4, 2, Dh}, Size{2, 2049, 6, 6, Dh}}) {
      SCOPED_TRACE("T " + std::to_string(d.T) + ", Dh " + std::to_string(Dh));
      const Results one = on_gpu<attention::Plain>({}, d), other = on_gpu<attention::KeyMasked>({}, d);
      for (size_t i = 0; i < one.size(); ++i) {
        const Error error = error_of(std::span<const double>(one[i]), std::span<const double>(other[i]));
        EXPECT_LE(error.rms, i == 1 ? 0x1p-18 : 0x1p-8);  // two roundings to bf16
      }
    }
}

TEST_F(GpuSoftmaxForward, TakesTheKernelForHopper) {
  const KernelChoices choices;
  for (const int64_t Dh : {16, 64, 96, 128}) {
    on_gpu<attention::Plain>({}, {1, 70, 2, 1, Dh});
    on_gpu<attention::ListedRows>({}, {1, 70, 2, 1, Dh});
  }
  EXPECT_EQ(choices.summary(), "softmax_attention_forward: Hopper");
}

}  // namespace
}  // namespace headway::testing
