#include "kernels/ops/norm_aware_map.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

using Settings = NormAwareMapSettings;

constexpr Settings kQuery{.base = Settings::Base::direction, .power_from_norm = true};
constexpr Settings kKey{};

Settings with(Settings settings, auto change) {
  change(settings);
  return settings;
}

class NormAwareMapTest : public KernelTest {
 protected:
  /// [N,2*Dh]
  Tensor map(const Settings& settings, const std::vector<double>& x, int64_t Dh) {
    const int64_t N = static_cast<int64_t>(x.size()) / Dh;
    const Tensor rows = tensor(x, {N, Dh}), y = Tensor::empty({N, 2 * Dh}, DType::f64, Device{});
    launch(
        NormAwareMapForward<double>{
            .settings = settings, .x = rows.view<const double, 2>("x"), .y = y.view<double, 2>("y")},
        *stream);
    return y;
  }
  static double dot(const Tensor& a, int64_t i, const Tensor& b, int64_t j) {
    const int64_t width = a.size(1);
    double sum = 0;
    for (int64_t c = 0; c < width; ++c)
      sum += a.data<double>()[i * width + c] * b.data<double>()[j * width + c];
    return sum;
  }
  std::vector<double> rows(int64_t N, int64_t Dh, double scale = 1) {
    const auto values = random(N * Dh, scale);
    return {values.begin(), values.end()};
  }
};

// The definition of the specification, one number at a time.
std::vector<double> definition(const Settings& s, const std::vector<double>& x, int64_t Dh) {
  const int64_t N = static_cast<int64_t>(x.size()) / Dh;
  std::vector<double> y(2 * x.size());
  for (int64_t n = 0; n < N; ++n) {
    double squares = s.eps;
    for (int64_t i = 0; i < Dh; ++i) squares += x[n * Dh + i] * x[n * Dh + i];
    const double r = std::sqrt(squares);
    const double power = s.power_from_norm ? s.lambda * (s.tau + std::tanh(s.norm_scale * r)) : s.lambda;
    for (int64_t i = 0; i < Dh; ++i) {
      const double value = x[n * Dh + i], d = value / r;
      const double base = s.base == Settings::Base::row ? value : s.direction_scale * d;
      const double amplitude = std::pow(std::abs(base), power);
      const double phase = std::numbers::pi / 4 *
                           (s.phase == Settings::Phase::tanh_direction ? std::tanh(d)
                            : s.phase == Settings::Phase::direction    ? d
                            : s.phase == Settings::Phase::tanh_row     ? std::tanh(value)
                                                                       : 0);
      const bool cosine = s.map == Settings::Map::cosine;
      y[n * 2 * Dh + i] = cosine ? amplitude * std::cos(phase) : base > 0 ? amplitude : 0;
      y[n * 2 * Dh + Dh + i] = cosine ? amplitude * std::sin(phase) : base < 0 ? amplitude : 0;
    }
  }
  return y;
}

std::vector<Settings> every_setting() {
  std::vector<Settings> all;
  for (const auto map : {Settings::Map::cosine, Settings::Map::relu_split})
    for (const auto base : {Settings::Base::row, Settings::Base::direction})
      for (const auto phase : {Settings::Phase::tanh_direction, Settings::Phase::direction,
                               Settings::Phase::tanh_row, Settings::Phase::none})
        for (const bool power_from_norm : {false, true})
          all.push_back({.map = map,
                         .base = base,
                         .phase = phase,
                         .power_from_norm = power_from_norm,
                         .lambda = 2.3,
                         .tau = 0.6,
                         .norm_scale = 0.4,
                         .direction_scale = 1.7});
  return all;
}

TEST_F(NormAwareMapTest, MatchesTheDefinition) {
  const int64_t Dh = 7;
  std::vector<double> x = rows(6, Dh);
  x[3] = x[9] = 0;                           // zeros inside rows
  std::fill_n(x.begin() + 5 * Dh, Dh, 0.0);  // and a row of zeros
  for (const Settings& settings : every_setting()) {
    const std::vector<double> expected = definition(settings, x, Dh);
    const std::vector<double> actual = map(settings, x, Dh).to_vector<double>(*stream);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_TRUE(std::abs(actual[i] - expected[i]) <= 1e-14 * (1 + std::abs(expected[i]))) << i;
  }
}

// The float kernel's power is exp(P log b): its relative error is that of P log b, here up to 4.5 * 7 with
// some units of 6e-8.
TEST_F(NormAwareMapTest, TheFloatKernelIsNearTheDoubleOne) {
  const int64_t N = 50, Dh = 33;
  const auto x = random(N * Dh), dy = random(N * 2 * Dh);
  for (Settings settings : every_setting()) {
    settings.lambda = 3;
    const Output y({N, 2 * Dh}), dx({N, Dh}), dlambda({1});
    const auto run = [&]<class T>(const Tensor& x_in, const Tensor& dy_in, const Tensor& lambda,
                                  const Tensor& y_out, const Tensor& dx_out, const Tensor& dlambda_out, T) {
      launch(NormAwareMapForward<T>{.settings = settings,
                                    .x = x_in.view<const T, 2>("x"),
                                    .lambda = lambda.view<const T, 1>("lambda"),
                                    .y = y_out.view<T, 2>("y")},
             *stream);
      launch(NormAwareMapBackward<T>{.settings = settings,
                                     .x = x_in.view<const T, 2>("x"),
                                     .lambda = lambda.view<const T, 1>("lambda"),
                                     .dy = dy_in.view<const T, 2>("dy"),
                                     .dx = dx_out.view<T, 2>("dx"),
                                     .dlambda = dlambda_out.view<T, 1>("dlambda")},
             *stream);
    };
    run(tensor(x, {N, Dh}), tensor(dy, {N, 2 * Dh}), tensor(std::vector{3.0f}, {1}), y.tensor(), dx.tensor(),
        dlambda.tensor(), float{});
    const auto wide = [&](const std::vector<float>& values, const Shape& shape) {
      return tensor(std::vector<double>(values.begin(), values.end()), shape);
    };
    const Tensor y64 = Tensor::empty({N, 2 * Dh}, DType::f64, Device{}),
                 dx64 = Tensor::empty({N, Dh}, DType::f64, Device{}),
                 dlambda64 = Tensor::empty({1}, DType::f64, Device{});
    run(wide(x, {N, Dh}), wide(dy, {N, 2 * Dh}), tensor(std::vector{3.0}, {1}), y64, dx64, dlambda64,
        double{});
    // dlambda is a sum that cancels: its error is relative to the sum of magnitudes.
    double terms = 0;
    for (int64_t i = 0; i < y64.numel(); ++i)
      terms += std::abs(y64.data<double>()[i] * static_cast<double>(dy[i]));
    const auto expect_near = [&](const Output& output, const Tensor& exact, double magnitude) {
      const auto error = testing::error_of<float, double>(output.tensor().to_vector<float>(*stream),
                                                          exact.to_vector<double>(*stream));
      magnitude = std::max(magnitude, error.magnitude);
      EXPECT_TRUE(error.largest <= 1e-5 * magnitude) << error.largest << " of " << magnitude;
      output.expect_untouched_margins("output");
    };
    expect_near(y, y64, 0);
    expect_near(dx, dx64, 0);
    expect_near(dlambda, dlambda64, terms);
  }
}

TEST_F(NormAwareMapTest, CosineSimilaritiesAreBoundedFromBothSides) {
  const int64_t N = 40, Dh = 16;
  const auto q = rows(N, Dh), k = rows(N, Dh);
  const Tensor fq = map(kQuery, q, Dh), fk = map(kKey, k, Dh);
  const auto no_phase = [](Settings& s) { s.phase = Settings::Phase::none; };
  const Tensor aq = map(with(kQuery, no_phase), q, Dh), ak = map(with(kKey, no_phase), k, Dh);
  const double lowest = std::cos(std::numbers::pi / 2 * std::tanh(1.0));  // 0.36579: opposite unit vectors
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < N; ++j) {
      const double similarity = dot(fq, i, fk, j), largest = dot(aq, i, ak, j);
      EXPECT_LE(similarity, largest * (1 + 1e-12));
      EXPECT_GE(similarity, lowest * largest);
    }
}

// Why phases are bounded: opposite unit vectors have the lowest similarity there is. With the direction
// itself for a phase it would be cos(2) < 0, and a sum of weights could vanish.
TEST_F(NormAwareMapTest, OppositeUnitVectorsHaveTheLowestSimilarity) {
  const int64_t Dh = 4;
  const std::vector<double> q{1, 0, 0, 0}, k{-1, 0, 0, 0};
  const auto similarity = [&](Settings::Phase phase) {
    const auto change = [&](Settings& s) { s.phase = phase; };
    return dot(map(with(kQuery, change), q, Dh), 0, map(with(kKey, change), k, Dh), 0);
  };
  const double lowest = std::cos(std::numbers::pi / 2 * std::tanh(1.0));
  EXPECT_NEAR(lowest, 0.36579, 1e-5);
  EXPECT_NEAR(similarity(Settings::Phase::tanh_direction), lowest, 1e-12);
  EXPECT_NEAR(similarity(Settings::Phase::tanh_row), lowest, 1e-12);
  EXPECT_NEAR(similarity(Settings::Phase::direction), 0, 1e-12);
  EXPECT_NEAR(similarity(Settings::Phase::none), 1, 1e-11);
  const Tensor amplitude_q = map(with(kQuery, [](Settings&s) { s.phase = Settings::Phase::none; }), q, Dh),
               amplitude_k = map(with(kKey, [](Settings&s) { s.phase = Settings::Phase::none; }), k, Dh);
  double unbounded = 0;
  for (int64_t i = 0; i < Dh; ++i)
    unbounded += amplitude_q.data<double>()[i] * amplitude_k.data<double>()[i] * std::cos(q[i] - k[i]);
  EXPECT_LT(unbounded, -0.4);
}

TEST_F(NormAwareMapTest, ReluSplitIsNeverNegative) {
  const int64_t N = 20, Dh = 16;
  const auto split = [](Settings& s) { s.map = Settings::Map::relu_split; };
  for (const Settings& settings : {with(kQuery, split), with(kKey, split)})
    for (const double value : map(settings, rows(N, Dh), Dh).to_vector<double>(*stream)) EXPECT_GE(value, 0);
}

TEST_F(NormAwareMapTest, NotANumberStaysOne) {
  const int64_t Dh = 3;
  const Tensor x = tensor(std::vector{1.0f, std::numeric_limits<float>::quiet_NaN(), -2.0f}, {1, Dh});
  for (const Settings& settings : every_setting()) {
    const Output y({1, 2 * Dh});
    launch(
        NormAwareMapForward<float>{
            .settings = settings, .x = x.view<const float, 2>("x"), .y = y.tensor().view<float, 2>("y")},
        *stream);
    EXPECT_TRUE(std::isnan(y.tensor().data<float>()[1]) && std::isnan(y.tensor().data<float>()[Dh + 1]));
  }
}

// Per entry cos^2 + sin^2 = 1.
TEST_F(NormAwareMapTest, FeaturesHaveTheNormOfTheirAmplitudes) {
  const int64_t Dh = 9;
  const auto q = rows(1, Dh), k = rows(1, Dh);
  double squares = kQuery.eps, query_sum = 0, key_sum = 0;
  for (const double value : q) squares += value * value;
  const double r = std::sqrt(squares), power = 3 * (0.5 + std::tanh(r));
  for (const double value : q) query_sum += std::pow(std::abs(value / r), 2 * power);
  for (const double value : k) key_sum += std::pow(std::abs(value), 6);
  const Tensor fq = map(kQuery, q, Dh), fk = map(kKey, k, Dh);
  EXPECT_NEAR(dot(fq, 0, fq, 0), query_sum, 1e-12 * query_sum);
  EXPECT_NEAR(dot(fk, 0, fk, 0), key_sum, 1e-12 * key_sum);
}

// Power one and no split of the norm: the part of q.k / |q| where the signs agree.
TEST_F(NormAwareMapTest, ReluSplitWithPowerOneKeepsProductsOfEqualSign) {
  const int64_t Dh = 12;
  const auto q = rows(1, Dh), k = rows(1, Dh);
  const auto linear = [](Settings& s) {
    s.map = Settings::Map::relu_split, s.lambda = 1, s.power_from_norm = false;
  };
  double expected = 0, squares = kQuery.eps;
  for (int64_t i = 0; i < Dh; ++i) squares += q[i] * q[i], expected += std::max(0.0, q[i] * k[i]);
  expected /= std::sqrt(squares);
  EXPECT_NEAR(dot(map(with(kQuery, linear), q, Dh), 0, map(with(kKey, linear), k, Dh), 0), expected, 1e-12);
}

TEST_F(NormAwareMapTest, PowerOneWithoutPhaseIsTheAbsoluteValue) {
  const int64_t N = 5, Dh = 12;
  const auto x = rows(N, Dh);
  const auto plain = [](Settings& s) {
    s.phase = Settings::Phase::none, s.lambda = 1, s.power_from_norm = false;
  };
  const Tensor fq = map(with(kQuery, plain), x, Dh), fk = map(with(kKey, plain), x, Dh);
  for (int64_t n = 0; n < N; ++n) {
    double squares = kQuery.eps;
    for (int64_t i = 0; i < Dh; ++i) squares += x[n * Dh + i] * x[n * Dh + i];
    for (int64_t i = 0; i < Dh; ++i) {
      const double size = std::abs(x[n * Dh + i]);
      EXPECT_NEAR(fq.data<double>()[n * 2 * Dh + i], size / std::sqrt(squares), 1e-14);
      EXPECT_NEAR(fk.data<double>()[n * 2 * Dh + i], size, 1e-14);
      EXPECT_EQ(fq.data<double>()[n * 2 * Dh + Dh + i], 0);
      EXPECT_EQ(fk.data<double>()[n * 2 * Dh + Dh + i], 0);
    }
  }
}

// The larger the norm of a query, the more even small differences of its weights count: their mean entropy
// falls.
TEST_F(NormAwareMapTest, LongerQueriesHaveLessEntropy) {
  const int64_t queries = 64, keys = 128;
  for (const auto kind : {Settings::Map::cosine, Settings::Map::relu_split})
    for (const int64_t Dh : {32, 64}) {
      const auto of_kind = [&](Settings& s) { s.map = kind; };
      const auto k = rows(keys, Dh), unit = rows(queries, Dh);
      const Tensor fk = map(with(kKey, of_kind), k, Dh);
      double before = std::log(static_cast<double>(keys));
      for (const double scale : {0.02, 0.05, 0.1, 0.2, 0.4}) {
        std::vector<double> q = unit;
        for (double& value : q) value *= scale;
        const Tensor fq = map(with(kQuery, of_kind), q, Dh);
        double mean = 0;
        for (int64_t i = 0; i < queries; ++i) {
          double sum = 0, entropy = 0;
          for (int64_t j = 0; j < keys; ++j) sum += dot(fq, i, fk, j);
          for (int64_t j = 0; j < keys; ++j) {
            const double weight = dot(fq, i, fk, j) / sum;
            entropy -= weight * std::log(weight);
          }
          mean += entropy / static_cast<double>(queries);
        }
        EXPECT_LT(mean, before) << "map " << static_cast<int>(kind) << " Dh " << Dh << " norm scale "
                                << scale;
        before = mean;
      }
    }
}

TEST_F(NormAwareMapTest, EqualBitsForAnyNumberOfThreads) {
  const int64_t N = 700, Dh = 32;
  const Tensor x = tensor(random(N * Dh), {N, Dh}), dy = tensor(random(N * 2 * Dh), {N, 2 * Dh}),
               lambda = tensor(std::vector{2.5f}, {1});
  expect_equal_for_any_number_of_threads([&] {
    const auto empty = [](const Shape& shape) { return Tensor::empty(shape, DType::f32, Device{}); };
    const std::vector<Tensor> out{empty({N, 2 * Dh}), empty({N, Dh}), empty({1})};
    launch(NormAwareMapForward<float>{.settings = kQuery,
                                      .x = x.view<const float, 2>("x"),
                                      .lambda = lambda.view<const float, 1>("lambda"),
                                      .y = out[0].view<float, 2>("y")},
           *stream);
    launch(NormAwareMapBackward<float>{.settings = kQuery,
                                       .x = x.view<const float, 2>("x"),
                                       .lambda = lambda.view<const float, 1>("lambda"),
                                       .dy = dy.view<const float, 2>("dy"),
                                       .dx = out[1].view<float, 2>("dx"),
                                       .dlambda = out[2].view<float, 1>("dlambda")},
           *stream);
    return out;
  });
}

}  // namespace
}  // namespace headway
