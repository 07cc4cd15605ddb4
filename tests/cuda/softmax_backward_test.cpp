// The backward of softmax attention on the GPU in shapes that its kernels tile differently: against the CPU
// in double, against each other, and against themselves.
#include <cmath>
#include <cstring>
#include <span>

#include "autograd/ops/softmax_attention.h"
#include "kernels/attention/variants/listed_rows.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/row_affine.h"
#include "kernels/attention/variants/row_scaled.h"
#include "kernels/attention/variants/sink.h"
#include "kernels/attention/variants/sliding_window.h"
#include "kernels/kernel_choice.h"
#include "tests/cuda/gpu_test.h"

namespace headway::testing {
namespace {

using Inputs = std::vector<Variable>;

/// window 0: none; query_offset: position of the first query among the keys.
struct Dims {
  int64_t B, T, H, K, Dh;
  int window = 0;
  int64_t keys = 0, query_offset = 0;  // keys 0: T
};

class GpuAttentionBackward : public GpuTest {
 protected:
  /// q, k and v.
  std::vector<Input> inputs_of(const Dims& d) {
    const double size = std::pow(static_cast<double>(d.Dh), -0.25) * 2;
    const int64_t keys = d.keys == 0 ? d.T : d.keys;
    return {values({d.B, d.T, d.H, d.Dh}, size), values({d.B, keys, d.K, d.Dh}, size),
            values({d.B, keys, d.K, d.Dh})};
  }
  static std::string text(const Dims& d) {
    return "B " + std::to_string(d.B) + " T " + std::to_string(d.T) + " H " + std::to_string(d.H) + " K " +
           std::to_string(d.K) + " Dh " + std::to_string(d.Dh) + " window " + std::to_string(d.window) +
           " keys " + std::to_string(d.keys) + " offset " + std::to_string(d.query_offset);
  }
  void check_in_bf16(const std::vector<Input>& inputs, const Function& function) {
    check_dtype(DType::bf16, 8e-3, inputs, function);  // two roundings of one number
  }
  void check_windowed(const Dims& d) {
    SCOPED_TRACE(text(d));
    check_in_bf16(inputs_of(d), [&](Context& c, const Inputs& x) {
      const SoftmaxInputs in{.q = x[0], .k = x[1], .v = x[2]};
      if (d.window == 0) return softmax_attention<attention::Plain>(c, in, {.query_offset = d.query_offset});
      return softmax_attention<attention::SlidingWindow>(
          c, in, {.params = {.window = d.window}, .query_offset = d.query_offset});
    });
  }
};

TEST_F(GpuAttentionBackward, EveryLength) {
  for (const int64_t Dh : {64, 128})
    for (const int64_t T : {1, 3, 63, 64, 65, 127, 128, 129, 257, 1000})
      check_windowed({.B = 2, .T = T, .H = 3, .K = 3, .Dh = Dh});
  for (const int64_t Dh : {64, 128}) check_windowed({.B = 1, .T = 2049, .H = 1, .K = 1, .Dh = Dh});
}

TEST_F(GpuAttentionBackward, HeadsInGroupsAndOfOtherWidths) {
  for (const Dims& d : {Dims{2, 300, 8, 2, 128},
                        {2, 300, 8, 2, 64},
                        {1, 129, 4, 1, 96},
                        {2, 200, 2, 2, 80},
                        {2, 200, 3, 1, 40},
                        {1, 130, 2, 2, 16}})
    check_windowed(d);
}

// So short, and so many, that all heads of a group go by in one task.
TEST_F(GpuAttentionBackward, ManyShortSequencesWithHeadsInGroups) {
  for (const Dims& d : {Dims{2, 60, 2, 1, 64}, {2, 60, 2, 1, 128}, {40, 256, 2, 1, 64}, {80, 200, 2, 1, 128}})
    check_windowed(d);
}

TEST_F(GpuAttentionBackward, Windows) {
  for (const int64_t Dh : {64, 128})
    for (const int window : {1, 2, 63, 64, 65, 128, 200, 5000})
      check_windowed({.B = 1, .T = 500, .H = 4, .K = 2, .Dh = Dh, .window = window});
}

TEST_F(GpuAttentionBackward, MoreKeysThanQueriesAndRowsWithoutKeys) {
  for (const int64_t Dh : {64, 128})
    for (const Dims& d : {Dims{2, 1, 2, 2, Dh, 0, 300, 299},
                          {1, 70, 4, 1, Dh, 0, 333, 263},
                          {1, 70, 2, 2, Dh, 50, 700, 430},
                          {2, 130, 2, 1, Dh, 0, 700, 100},
                          {1, 300, 2, 2, Dh, 16, 40, 0},
                          {1, 20, 2, 2, Dh, 16, 40, 300},
                          {1, 300, 2, 2, Dh, 0, 40, 0}})
      check_windowed(d);
}

TEST_F(GpuAttentionBackward, ScaledRows) {
  for (const int64_t Dh : {64, 128})
    for (const Dims& d : {Dims{2, 257, 4, 2, Dh}, {1, 300, 2, 2, Dh, 70}, {1, 300, 2, 2, Dh, 16, 40, 0}}) {
      SCOPED_TRACE(text(d));
      std::vector<Input> inputs = inputs_of(d);
      inputs.push_back(vector({d.B, d.H, d.T}, 1));
      check_in_bf16(inputs, [&](Context& c, const Inputs& x) {
        return softmax_attention<attention::RowScaled>(
            c, {.q = x[0], .k = x[1], .v = x[2], .row_scale = x[3]},
            {.params = {.window = d.window}, .query_offset = d.query_offset});
      });
    }
}

TEST_F(GpuAttentionBackward, ListedRows) {
  for (const int64_t Dh : {40, 64, 128})
    for (const Dims& d : {Dims{2, 1, 4, 2, Dh},
                          {2, 65, 4, 4, Dh},
                          {2, 257, 4, 2, Dh},
                          {1, 1000, 8, 8, Dh},
                          {1, 2100, 4, 4, Dh},
                          {1, 300, 4, 2, Dh, 70},
                          {1, 1000, 4, 1, Dh, 1},
                          {1, 70, 4, 4, Dh, 50, 700, 430},
                          {2, 130, 4, 1, Dh, 0, 700, 100},
                          {1, 300, 4, 4, Dh, 16, 40, 0}}) {
      SCOPED_TRACE(text(d));
      std::vector<Input> inputs = inputs_of(d);
      inputs.push_back(vector({d.B, d.H, d.T}, 1));
      inputs.push_back(row_lists({d.B, d.H, d.T}));
      // Gradients of q and k are differences, of what a row gets from its keys and of what o says that it
      // gets.
      constexpr double kTerm = 0.5;
      const auto attend = [&](Context& c, const Inputs& x) {
        return softmax_attention<attention::ListedRows>(
            c, {.q = x[0], .k = x[1], .v = x[2], .row_scale = x[3], .row_index = x[4].value()},
            {.params = {.window = d.window}, .query_offset = d.query_offset});
      };
      check_dtype(DType::bf16, 8e-3, inputs, attend, kTerm);
    }
}

TEST_F(GpuAttentionBackward, Sinks) {
  for (const int64_t Dh : {64, 128})
    for (const Dims& d : {Dims{2, 257, 4, 2, Dh}, {1, 300, 2, 2, Dh, 70}, {1, 300, 2, 2, Dh, 16, 40, 0}}) {
      SCOPED_TRACE(text(d));
      std::vector<Input> inputs = inputs_of(d);
      inputs.push_back(vector({d.H}));
      check_in_bf16(inputs, [&](Context& c, const Inputs& x) {
        return softmax_attention<attention::Sink>(
            c, {.q = x[0], .k = x[1], .v = x[2], .sink = x[3]},
            {.params = {.window = d.window}, .query_offset = d.query_offset});
      });
    }
}

/// q, k, v, dO, o and log_sum_exp on the GPU, and launches of the backward on them.
template <class V>
class Launches {
 public:
  Launches(const Dims& d, const typename V::Params& params, uint32_t seed, Stream& stream)
      : d_(d), params_(params), stream_(stream) {
    const double size = std::pow(static_cast<double>(d.Dh), -0.25) * 2;
    const Shape rows{d.B, d.T, d.H, d.Dh}, keys{d.B, d.T, d.K, d.Dh};
    q_ = random(rows, size, seed, 0), k_ = random(keys, size, seed, 1), v_ = random(keys, 1, seed, 2);
    dout_ = random(rows, 1, seed, 3);
    o_ = empty(rows, DType::bf16), y_ = empty(rows, DType::bf16);
    log_sum_exp_ = empty({d.B, d.H, d.T}, DType::f32);
    const std::vector<float> ones(static_cast<size_t>(d.B * d.H * d.T), 1);
    scale_ = Tensor::from<float>(ones, {d.B, d.H, d.T}, stream);
    bias_ = Tensor::zeros({d.B, d.H, d.T}, DType::f32, stream);
    index_ = Tensor::from<int32_t>(row_lists_of_any_share(d.B * d.H, d.T, seed), {d.B, d.H, d.T}, stream);
    dq_ = empty(rows, DType::bf16), dk_ = empty(keys, DType::bf16), dv_ = empty(keys, DType::bf16);
    forward();
  }
  void forward() {
    auto args = with_inputs<SoftmaxForward<V, bf16>>();
    args.o = o_.view<bf16, 4>("o"), args.y = y_.view<bf16, 4>("y");
    args.log_sum_exp = log_sum_exp_.view<float, 3>("log_sum_exp");
    launch(args, stream_);
  }
  /// dq, dk and dv, from memory that held NaN.
  std::vector<std::vector<bf16>> backward() {
    for (const Tensor* x : {&dq_, &dk_, &dv_}) {
      const std::vector<uint16_t> marks(static_cast<size_t>(x->numel()), 0xFFFF);
      headway::backend(stream_.device()).copy(x->raw(), marks.data(), x->bytes(), stream_);
      stream_.synchronize();
    }
    auto args = with_inputs<SoftmaxBackward<V, bf16>>();
    args.y = (kKeepsY<V> ? y_ : o_).template view<const bf16, 4>("y");
    args.log_sum_exp = log_sum_exp_.view<const float, 3>("log_sum_exp");
    args.dout = dout_.view<const bf16, 4>("dout");
    args.dq = dq_.view<bf16, 4>("dq"), args.dk = dk_.view<bf16, 4>("dk"), args.dv = dv_.view<bf16, 4>("dv");
    launch(args, stream_);
    return {dq_.to_vector<bf16>(stream_), dk_.to_vector<bf16>(stream_), dv_.to_vector<bf16>(stream_)};
  }

 private:
  Tensor empty(const Shape& shape, DType dtype) const {
    return Tensor::empty(shape, dtype, stream_.device());
  }
  Tensor random(const Shape& shape, double size, uint32_t seed, uint32_t which) const {
    std::vector<bf16> rounded;
    for (const float x : random_values<float>(shape.numel(), seed, which, size)) rounded.push_back(bf16(x));
    return Tensor::from<bf16>(rounded, shape, stream_);
  }
  template <class Args>
  Args with_inputs() const {
    Args args;
    args.q = q_.view<const bf16, 4>("q"), args.k = k_.view<const bf16, 4>("k");
    args.v = v_.view<const bf16, 4>("v");
    if constexpr (has(V::slots, Slots::row_scale))
      args.slots.row_scale = scale_.view<const float, 3>("row_scale");
    if constexpr (has(V::slots, Slots::row_bias))
      args.slots.row_bias = bias_.view<const float, 3>("row_bias");
    if constexpr (has(V::slots, Slots::row_index))
      args.slots.row_index = index_.view<const int32_t, 3>("row_index");
    args.params = params_;
    args.scale = 1 / std::sqrt(static_cast<double>(d_.Dh));
    return args;
  }

  Dims d_;
  typename V::Params params_;
  Stream& stream_;
  Tensor q_, k_, v_, dout_, o_, y_, log_sum_exp_, scale_, bias_, index_, dq_, dk_, dv_;
};

double relative_difference(const std::vector<bf16>& x, const std::vector<bf16>& y) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double a = static_cast<double>(static_cast<float>(x[i])),
                 b = static_cast<double>(static_cast<float>(y[i]));
    difference += (a - b) * (a - b), size += b * b;
  }
  return std::sqrt(difference / size);
}

// Rows with a scale of one and a bias of zero are plain ones, computed by other kernels.
TEST_F(GpuAttentionBackward, KernelsAgreeOnLongSequences) {
  const auto stream = backend({Device::Kind::cuda, 0}).make_stream();
  for (const Dims& d :
       {Dims{1, 4096, 4, 4, 128}, {2, 4100, 4, 1, 64}, {1, 3000, 8, 2, 128, 700}, {3, 2048, 16, 16, 64}}) {
    SCOPED_TRACE(text(d));
    Launches<attention::SlidingWindow> windowed(d, {.window = d.window}, seed_, *stream);
    Launches<attention::RowAffine> affine(d, {.window = d.window}, seed_, *stream);
    const auto ours = windowed.backward(), theirs = affine.backward();
    for (size_t i = 0; i < ours.size(); ++i)
      EXPECT_LE(relative_difference(ours[i], theirs[i]), 1e-2) << "dq dk dv"[3 * i + 1];
  }
}

// The order in which key tiles add to dq is fixed, however blocks are placed.
TEST_F(GpuAttentionBackward, BitsRepeatOnAnIdleAndABusyGpu) {
  Backend& gpu = backend({Device::Kind::cuda, 0});
  const auto stream = gpu.make_stream(), other = gpu.make_stream();
  Launches<attention::Plain> load({2, 2048, 8, 8, 64}, {}, seed_ + 1, *other);
  for (const Dims& d : {Dims{2, 1000, 6, 6, 64}, {1, 1500, 8, 2, 128}, {2, 1100, 4, 4, 128, 300}}) {
    SCOPED_TRACE(text(d));
    const auto expect_equal_bits = [&](auto launches) {
      const auto first = launches.backward();
      for (int n = 0; n < 80; ++n) {
        if (n % 2 == 1)
          for (int k = 0; k < 1 + n % 5; ++k) load.forward();
        const auto again = launches.backward();
        for (size_t i = 0; i < first.size(); ++i)
          ASSERT_EQ(std::memcmp(again[i].data(), first[i].data(), first[i].size() * sizeof(bf16)), 0)
              << "launch " << n << ", gradient " << i;
      }
    };
    expect_equal_bits(Launches<attention::SlidingWindow>(d, {.window = d.window}, seed_, *stream));
    expect_equal_bits(Launches<attention::ListedRows>(d, {.window = d.window}, seed_, *stream));
  }
  other->synchronize();
}

TEST_F(GpuAttentionBackward, TheLogNamesTheKernelAndWhyItIsNotTheFastest) {
  const auto stream = backend({Device::Kind::cuda, 0}).make_stream();
  const auto summary_of = [&]<class V>(const typename V::Params& params) {
    Launches<V> launches({1, 128, 1, 1, 64}, params, seed_, *stream);
    const KernelChoices choices;
    launches.backward();
    return choices.summary();
  };
  const std::string plain = summary_of.operator()<attention::Plain>({}),
                    affine = summary_of.operator()<attention::RowAffine>({});
  if (plain.find("compute capability") != std::string::npos) GTEST_SKIP() << plain;
  EXPECT_EQ(plain, "softmax_attention_backward: Hopper");
  EXPECT_EQ(affine,
            "softmax_attention_backward: tensor-core (not Hopper, because the variant has other slots than a "
            "row scale, which listed rows may have too, or a sink)");
  EXPECT_EQ(summary_of.operator()<attention::ListedRows>({}), "softmax_attention_backward: Hopper");
}

}  // namespace
}  // namespace headway::testing
