#include "kernels/ops/cca_prologue.h"

#include <cmath>
#include <deque>

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

struct Case {
  int64_t B, T, H, K, Dh, K0, K1;
  bool history = false;
  bool qk_mean = true;
  CcaTemperature temperature = CcaTemperature::exponential;

  int64_t heads() const { return H + K; }
  int64_t channels() const { return heads() * Dh; }
  int64_t past() const { return K0 + K1 - 2; }
};

struct Inputs {
  std::vector<float> query, key, query_history, key_history, conv_a, conv_a_bias, conv_b, conv_b_bias,
      temperature;
};

constexpr double kEps = 1e-12;

class CcaPrologueTest : public KernelTest {
 protected:
  Inputs inputs(const Case& c) {
    const int64_t rows = c.B * c.T, past = c.history ? c.B * c.past() : 0;
    return {random(rows * c.H * c.Dh),          random(rows * c.K * c.Dh),   random(past * c.H * c.Dh),
            random(past * c.K * c.Dh),          random(c.channels() * c.K0), random(c.channels()),
            random(c.channels() * c.Dh * c.K1), random(c.channels()),        random(c.K, 0.5)};
  }
  /// Tensors live as long as the fixture.
  CcaPrologueInputs<float> views(const Case& c, const Inputs& in) {
    const auto view4 = [&](const std::vector<float>& values, const Shape& shape) {
      return keep(tensor(values, shape)).view<const float, 4>("x");
    };
    const auto view1 = [&](const std::vector<float>& values) {
      return keep(tensor(values, {static_cast<int64_t>(values.size())})).view<const float, 1>("x");
    };
    CcaPrologueInputs<float> args;
    args.query = view4(in.query, {c.B, c.T, c.H, c.Dh});
    args.key = view4(in.key, {c.B, c.T, c.K, c.Dh});
    if (c.history) {
      args.query_history = view4(in.query_history, {c.B, c.past(), c.H, c.Dh});
      args.key_history = view4(in.key_history, {c.B, c.past(), c.K, c.Dh});
    }
    args.conv_a = keep(tensor(in.conv_a, {c.channels(), c.K0})).view<const float, 2>("conv_a");
    args.conv_a_bias = view1(in.conv_a_bias);
    args.conv_b = view4(in.conv_b, {c.heads(), c.Dh, c.Dh, c.K1});
    args.conv_b_bias = view1(in.conv_b_bias);
    args.temperature = view1(in.temperature);
    args.temperature_kind = c.temperature;
    args.qk_mean = c.qk_mean;
    args.eps = kEps;
    return args;
  }
  const Tensor& keep(Tensor tensor) { return kept_.emplace_back(std::move(tensor)); }

 private:
  std::deque<Tensor> kept_;
};

/// The definition, from the paper's equations: one token, head and channel at a time. Returns q and k.
template <class S>
Values<S> definition(const Case& c, const Inputs& in) {
  // u0 of head m; rows before token 0 are the history or zero
  const auto u0 = [&](int64_t b, int64_t t, int64_t m, int64_t d) -> S {
    const bool is_query = m < c.H;
    const int64_t heads = is_query ? c.H : c.K, h = is_query ? m : m - c.H;
    if (t >= 0) return S((is_query ? in.query : in.key)[((b * c.T + t) * heads + h) * c.Dh + d]);
    const auto& history = is_query ? in.query_history : in.key_history;
    const int64_t row = c.past() + t;
    return history.empty() || row < 0 ? S(0) : S(history[((b * c.past() + row) * heads + h) * c.Dh + d]);
  };
  const auto u1 = [&](int64_t b, int64_t t, int64_t m, int64_t d) {
    const int64_t channel = m * c.Dh + d;
    S sum = S(in.conv_a_bias[channel]);
    for (int64_t j = 0; j < c.K0; ++j)
      sum += S(in.conv_a[channel * c.K0 + j]) * u0(b, t - (c.K0 - 1) + j, m, d);
    return sum;
  };
  const int64_t G = c.H / c.K;
  Values<S> out{std::vector<S>(in.query.size()), std::vector<S>(in.key.size())};
  for (int64_t b = 0; b < c.B; ++b)
    for (int64_t t = 0; t < c.T; ++t)
      for (int64_t m = 0; m < c.heads(); ++m) {
        const bool is_query = m < c.H;
        const int64_t g = is_query ? m / G : m - c.H;
        std::vector<S> x(static_cast<size_t>(c.Dh));
        for (int64_t o = 0; o < c.Dh; ++o) {
          S sum = S(in.conv_b_bias[m * c.Dh + o]);
          for (int64_t j = 0; j < c.K1; ++j)
            for (int64_t i = 0; i < c.Dh; ++i)
              sum += S(in.conv_b[((m * c.Dh + o) * c.Dh + i) * c.K1 + j]) * u1(b, t - (c.K1 - 1) + j, m, i);
          if (c.qk_mean && is_query) sum += (u0(b, t, m, o) + u0(b, t, c.H + g, o)) / S(2);
          if (c.qk_mean && !is_query) {
            S mean = 0;
            for (int64_t n = 0; n < G; ++n) mean += (u0(b, t, g * G + n, o) + u0(b, t, m, o)) / S(2) / S(G);
            sum += mean;
          }
          x[o] = sum;
        }
        S squares = S(kEps);
        for (const S value : x) squares += value * value;
        const S temperature = S(in.temperature[g]);
        const S beta = is_query                                       ? S(1)
                       : c.temperature == CcaTemperature::exponential ? std::exp(temperature)
                                                                      : temperature;
        const int64_t heads = is_query ? c.H : c.K, h = is_query ? m : m - c.H;
        for (int64_t o = 0; o < c.Dh; ++o)
          out[is_query ? 0 : 1][((b * c.T + t) * heads + h) * c.Dh + o] =
              beta * std::sqrt(S(c.Dh)) * x[o] / std::sqrt(squares);
      }
  return out;
}

const Case kCases[] = {
    {.B = 1, .T = 1, .H = 1, .K = 1, .Dh = 1, .K0 = 1, .K1 = 1},
    {.B = 2, .T = 9, .H = 4, .K = 2, .Dh = 5, .K0 = 2, .K1 = 2},
    {.B = 3, .T = 1, .H = 2, .K = 2, .Dh = 16, .K0 = 2, .K1 = 2, .history = true},
    {.B = 2, .T = 33, .H = 3, .K = 1, .Dh = 17, .K0 = 3, .K1 = 2, .temperature = CcaTemperature::linear},
    {.B = 1, .T = 4, .H = 2, .K = 1, .Dh = 32, .K0 = 2, .K1 = 3, .history = true, .qk_mean = false},
    {.B = 2, .T = 130, .H = 4, .K = 4, .Dh = 24, .K0 = 4, .K1 = 4, .history = true},
};

TEST_F(CcaPrologueTest, MatchesTheDefinition) {
  for (const Case& c : kCases) {
    SCOPED_TRACE("T " + std::to_string(c.T) + " Dh " + std::to_string(c.Dh));
    const Inputs in = inputs(c);
    const Output q({c.B, c.T, c.H, c.Dh}), k({c.B, c.T, c.K, c.Dh});
    launch(
        CcaPrologueForward<float>{
            .in = views(c, in), .q = q.tensor().view<float, 4>("q"), .k = k.tensor().view<float, 4>("k")},
        *stream);
    expect_close({&q, &k}, [&]<class S>(S) { return definition<S>(c, in); });
  }
}

// No non-linearity stands between the convolutions, and the padding comes before both: they are one
// convolution of K0 + K1 - 1 taps with a constant bias, from token 0 on.
TEST_F(CcaPrologueTest, TwoConvolutionsAreOneLongerOne) {
  const Case c{.B = 1, .T = 6, .H = 2, .K = 1, .Dh = 3, .K0 = 3, .K1 = 2};
  const Case collapsed{.B = 1, .T = 6, .H = 2, .K = 1, .Dh = 3, .K0 = 1, .K1 = 4};
  const Inputs in = inputs(c);
  Inputs one = in;
  one.conv_a.assign(static_cast<size_t>(c.channels()), 1.0f);
  one.conv_a_bias.assign(static_cast<size_t>(c.channels()), 0.0f);
  one.conv_b.assign(static_cast<size_t>(c.channels() * c.Dh * 4), 0.0f);
  for (int64_t channel = 0; channel < c.channels(); ++channel)
    for (int64_t i = 0; i < c.Dh; ++i)
      for (int64_t j1 = 0; j1 < c.K1; ++j1) {
        const float b = in.conv_b[(channel * c.Dh + i) * c.K1 + j1];
        const int64_t source = channel / c.Dh * c.Dh + i;
        one.conv_b_bias[channel] += b * in.conv_a_bias[source];
        for (int64_t j0 = 0; j0 < c.K0; ++j0)
          one.conv_b[(channel * c.Dh + i) * 4 + j0 + j1] += b * in.conv_a[source * c.K0 + j0];
      }
  const Values<double> two = definition<double>(c, in);
  const Output q({c.B, c.T, c.H, c.Dh}), k({c.B, c.T, c.K, c.Dh});
  launch(CcaPrologueForward<float>{.in = views(collapsed, one),
                                   .q = q.tensor().view<float, 4>("q"),
                                   .k = k.tensor().view<float, 4>("k")},
         *stream);
  // Weights were multiplied in float: some 10 roundings of numbers up to sqrt(3), the length of a row.
  for (const auto& [output, expected] : {std::pair(&q, two[0]), std::pair(&k, two[1])}) {
    const std::vector<float> actual = output->tensor().to_vector<float>(*stream);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_TRUE(std::abs(static_cast<double>(actual[i]) - expected[i]) <= 2e-5) << i;
  }
}

// A token reaches its own row and the K0 + K1 - 2 after it, and nothing else by a single bit.
TEST_F(CcaPrologueTest, ATokenReachesAsFarAsTheTaps) {
  const Case c{.B = 1, .T = 9, .H = 2, .K = 1, .Dh = 4, .K0 = 3, .K1 = 2};
  Inputs in = inputs(c);
  const auto run = [&] {
    const Tensor q = Tensor::empty({c.T, c.H * c.Dh}, DType::f32, Device{}),
                 k = Tensor::empty({c.T, c.K * c.Dh}, DType::f32, Device{});
    launch(CcaPrologueForward<float>{.in = views(c, in),
                                     .q = q.reshape({c.B, c.T, c.H, c.Dh}).view<float, 4>("q"),
                                     .k = k.reshape({c.B, c.T, c.K, c.Dh}).view<float, 4>("k")},
           *stream);
    return std::pair(q.to_vector<float>(*stream), k.to_vector<float>(*stream));
  };
  const auto before = run();
  const int64_t changed = 4;
  for (int64_t d = 0; d < c.K * c.Dh; ++d) in.key[changed * c.K * c.Dh + d] += 1;
  for (int64_t d = 0; d < c.H * c.Dh; ++d) in.query[changed * c.H * c.Dh + d] -= 1;
  const auto after = run();
  for (int64_t t = 0; t < c.T; ++t) {
    const auto differs = [&](const std::vector<float>& a, const std::vector<float>& b, int64_t width) {
      return !std::equal(a.begin() + t * width, a.begin() + (t + 1) * width, b.begin() + t * width);
    };
    const bool reached = t >= changed && t <= changed + c.past();
    EXPECT_EQ(differs(before.first, after.first, c.H * c.Dh), reached) << "query " << t;
    EXPECT_EQ(differs(before.second, after.second, c.K * c.Dh), reached) << "key " << t;
  }
}

TEST_F(CcaPrologueTest, RowsHaveTheLengthOfTheTemperature) {
  const Case c{.B = 1, .T = 3, .H = 2, .K = 1, .Dh = 8, .K0 = 2, .K1 = 2};
  Inputs in = inputs(c);
  in.temperature = {0.7f};
  const Output q({c.B, c.T, c.H, c.Dh}), k({c.B, c.T, c.K, c.Dh});
  launch(
      CcaPrologueForward<float>{
          .in = views(c, in), .q = q.tensor().view<float, 4>("q"), .k = k.tensor().view<float, 4>("k")},
      *stream);
  const auto expect_length = [&](const Output& rows, double length) {
    const std::vector<float> x = rows.tensor().to_vector<float>(*stream);
    for (size_t row = 0; row < x.size(); row += 8) {
      double squares = 0;
      for (size_t d = 0; d < 8; ++d)
        squares += static_cast<double>(x[row + d]) * static_cast<double>(x[row + d]);
      EXPECT_NEAR(std::sqrt(squares), length, 1e-6 * length);
    }
  };
  expect_length(q, std::sqrt(8.0));
  expect_length(k, std::sqrt(8.0) * std::exp(0.7f));
}

TEST_F(CcaPrologueTest, EqualBitsForAnyNumberOfThreads) {
  const Case c{.B = 11, .T = 40, .H = 4, .K = 2, .Dh = 20, .K0 = 2, .K1 = 2};
  const Inputs in = inputs(c);
  const auto args = views(c, in);
  const Tensor dq = tensor(random(c.B * c.T * c.H * c.Dh), {c.B, c.T, c.H, c.Dh}),
               dk = tensor(random(c.B * c.T * c.K * c.Dh), {c.B, c.T, c.K, c.Dh});
  expect_equal_for_any_number_of_threads([&] {
    const auto empty = [](const Shape& shape) { return Tensor::empty(shape, DType::f32, Device{}); };
    const std::vector<Tensor> out{empty(dq.shape()),
                                  empty(dk.shape()),
                                  empty(dq.shape()),
                                  empty(dk.shape()),
                                  empty({c.channels(), c.K0}),
                                  empty({c.channels()}),
                                  empty({c.heads(), c.Dh, c.Dh, c.K1}),
                                  empty({c.channels()}),
                                  empty({c.K})};
    launch(
        CcaPrologueForward<float>{
            .in = args, .q = out[0].view<float, 4>("q"), .k = out[1].view<float, 4>("k")},
        *stream);
    launch(CcaPrologueBackward<float>{.in = args,
                                      .dq = dq.view<const float, 4>("dq"),
                                      .dk = dk.view<const float, 4>("dk"),
                                      .dquery = out[2].view<float, 4>("dquery"),
                                      .dkey = out[3].view<float, 4>("dkey"),
                                      .dconv_a = out[4].view<float, 2>("dconv_a"),
                                      .dconv_a_bias = out[5].view<float, 1>("dconv_a_bias"),
                                      .dconv_b = out[6].view<float, 4>("dconv_b"),
                                      .dconv_b_bias = out[7].view<float, 1>("dconv_b_bias"),
                                      .dtemperature = out[8].view<float, 1>("dtemperature")},
           *stream);
    return out;
  });
}

}  // namespace
}  // namespace headway
