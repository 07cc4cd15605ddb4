// The loss that teaches a linear attention the weights of softmax attention.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <memory>
#include <vector>

#include "autograd/apply.h"
#include "autograd/engine.h"
#include "autograd/gradcheck.h"
#include "autograd/ops/attention_transfer.h"
#include "autograd/ops/head_linear.h"
#include "autograd/ops/hedgehog_map.h"
#include "core/backend.h"
#include "core/error.h"
#include "tests/support/seed.h"

namespace headway {
namespace {

class AttentionTransferTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  const uint32_t seed = fresh_seed();
  Rng rng{seed};
  Context ctx{.stream = *stream, .rng = rng, .recording = true};

  Tensor random(const Shape& shape, bool positive = false) {
    std::vector<double> values = random_values<double>(shape.numel(), seed, next_++);
    if (positive)
      for (double& value : values) value = std::exp(value);
    return Tensor::from<double>(values, shape, *stream);
  }
  static Tensor to_float(const Tensor& x, Stream& stream) {
    std::vector<float> values;
    for (const double value : x.to_vector<double>(stream)) values.push_back(static_cast<float>(value));
    return Tensor::from<float>(values, x.shape(), stream);
  }

 private:
  uint32_t next_ = 0;
  testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

/// The definition, a row at a time.
double mean_divergence(const Tensor& q, const Tensor& k, const Tensor& fq, const Tensor& fk, double scale) {
  const auto dot = [](const Tensor& x, const Tensor& y, int64_t b, int64_t i, int64_t j, int64_t h) {
    const auto xs = x.view<const double, 4>("x"), ys = y.view<const double, 4>("y");
    double sum = 0;
    for (int64_t d = 0; d < x.size(3); ++d) sum += xs(b, i, h, d) * ys(b, j, h, d);
    return sum;
  };
  double total = 0;
  for (int64_t b = 0; b < q.size(0); ++b)
    for (int64_t h = 0; h < q.size(2); ++h)
      for (int64_t i = 0; i < q.size(1); ++i) {
        double softmax_sum = 0, weight_sum = 0;
        for (int64_t j = 0; j <= i; ++j) {
          softmax_sum += std::exp(scale * dot(q, k, b, i, j, h));
          weight_sum += dot(fq, fk, b, i, j, h);
        }
        for (int64_t j = 0; j <= i; ++j) {
          const double a = std::exp(scale * dot(q, k, b, i, j, h)) / softmax_sum;
          total += a * std::log(a / (dot(fq, fk, b, i, j, h) / weight_sum));
        }
      }
  return total / static_cast<double>(q.size(0) * q.size(1) * q.size(2));
}

TEST_F(AttentionTransferTest, IsTheMeanDivergenceOfTheRows) {
  for (const int64_t length : {1, 5, 33, 70}) {
    SCOPED_TRACE(length);
    const Tensor q = random({2, length, 3, 5}), k = random({2, length, 3, 5});
    const Tensor fq = random({2, length, 3, 7}, true), fk = random({2, length, 3, 7}, true);
    const double expected = mean_divergence(q, k, fq, fk, 0.4);
    const auto loss = [&](const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d) {
      return apply<AttentionTransfer>(ctx, {.scale = 0.4}, a, b, c, d).value();
    };
    const double in_double = loss(q, k, fq, fk).to_vector<double>(*stream)[0];
    const auto in_float = static_cast<double>(
        loss(to_float(q, *stream), to_float(k, *stream), to_float(fq, *stream), to_float(fk, *stream))
            .to_vector<float>(*stream)[0]);
    EXPECT_LE(std::abs(in_double - expected), 1e-12);
    EXPECT_LE(std::abs(in_float - expected), 1e-5);
  }
}

TEST_F(AttentionTransferTest, GradientsAreCentralDifferences) {
  for (const int64_t length : {2, 40}) {
    const Tensor q = random({2, length, 2, 4}), k = random({2, length, 2, 4});
    const Variable fq = Variable::leaf(random({2, length, 2, 3}, true)),
                   fk = Variable::leaf(random({2, length, 2, 3}, true));
    const GradCheck check = gradcheck(
        ctx,
        [&](Context& c) { return std::vector{apply<AttentionTransfer>(c, {.scale = 0.5}, q, k, fq, fk)}; },
        std::vector{fq, fk});
    EXPECT_TRUE(check.error <= 1e-7) << "error " << check.error << ": " << check.worst;
  }
}

// Scaling a row's weights changes nothing (lightning-hedgehog.md, D.4): the gradient has no part along it.
TEST_F(AttentionTransferTest, TheGradientIsOrthogonalToTheQueryFeatures) {
  const Variable fq = Variable::leaf(random({1, 50, 2, 6}, true)), fk(random({1, 50, 2, 6}, true));
  const Variable loss =
      apply<AttentionTransfer>(ctx, {.scale = 1}, random({1, 50, 2, 4}), random({1, 50, 2, 4}), fq, fk);
  backward(ctx, loss, MicroStep::last);
  const auto features = fq.value().view<const double, 4>("fq"),
             gradient = fq.grad().view<const double, 4>("dfq");
  for (int64_t i = 0; i < 50; ++i)
    for (int64_t h = 0; h < 2; ++h) {
      double along = 0;
      for (int64_t f = 0; f < 6; ++f) along += features(0, i, h, f) * gradient(0, i, h, f);
      EXPECT_LE(std::abs(along), 1e-14);
    }
}

TEST_F(AttentionTransferTest, EqualWeightsLoseNothingAndHaveNoGradient) {
  const Tensor zero = Tensor::zeros({1, 40, 1, 4}, DType::f64, *stream);
  const Tensor ones = Tensor::from<double>(std::vector<double>(80, 1.0), {1, 40, 1, 2}, *stream);
  const Variable fq = Variable::leaf(ones), fk = Variable::leaf(ones.clone(*stream));
  const Variable loss = apply<AttentionTransfer>(ctx, {.scale = 1}, zero, zero, fq, fk);
  EXPECT_LE(std::abs(loss.value().to_vector<double>(*stream)[0]), 1e-15);
  backward(ctx, loss, MicroStep::last);
  for (const Variable& leaf : {fq, fk})
    for (const double value : leaf.grad().to_vector<double>(*stream)) EXPECT_LE(std::abs(value), 1e-16);
}

// The papers' cross entropy is never below the teacher's entropy, however near the weights come.
TEST_F(AttentionTransferTest, IsNeverNegative) {
  const Tensor zero = Tensor::zeros({1, 40, 2, 3}, DType::f64, *stream);
  double before = 1;
  for (const double distance : {0.3, 1e-2, 1e-4, 1e-8}) {
    const auto near_one = [&] {
      const Tensor x = random({1, 40, 2, 5}, true);
      for (int64_t i = 0; i < x.numel(); ++i) x.data<double>()[i] = std::pow(x.data<double>()[i], distance);
      return x;
    };
    const double loss = apply<AttentionTransfer>(ctx, {.scale = 1}, zero, zero, near_one(), near_one())
                            .value()
                            .to_vector<double>(*stream)[0];
    EXPECT_GE(loss, -1e-15) << distance;
    EXPECT_LT(loss, before) << distance;
    before = loss;
  }
}

TEST_F(AttentionTransferTest, VanishingWeightsStayFinite) {
  const Tensor q = to_float(random({1, 40, 1, 4}), *stream);
  std::vector<float> features(80, 0.0f);
  for (size_t j = 0; j < 40; ++j) features[2 * j + j % 2] = 1;  // every second weight of a row is zero
  const Variable fq = Variable::leaf(Tensor::from<float>(features, {1, 40, 1, 2}, *stream)),
                 fk = Variable::leaf(Tensor::from<float>(features, {1, 40, 1, 2}, *stream));
  const Variable loss = apply<AttentionTransfer>(ctx, {.scale = 1}, q, q, fq, fk);
  EXPECT_TRUE(std::isfinite(loss.value().to_vector<float>(*stream)[0]));
  backward(ctx, loss, MicroStep::last);
  for (const Variable& leaf : {fq, fk})
    for (const float value : leaf.grad().to_vector<float>(*stream)) EXPECT_TRUE(std::isfinite(value));
}

/// Largest resident memory of this process so far.
double peak_bytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

// A quarter of one matrix of weights is far more than everything that grows with the tokens alone.
TEST_F(AttentionTransferTest, NeverHoldsAMatrixOfWeights) {
  constexpr int64_t kLength = 6000;
  const Tensor q = to_float(random({1, kLength, 1, 4}), *stream);
  const Variable f = Variable::leaf(to_float(random({1, kLength, 1, 4}, true), *stream));
  const double before = peak_bytes();
  const Variable loss = apply<AttentionTransfer>(ctx, {.scale = 1}, q, q, f, f);
  backward(ctx, loss, MicroStep::last);
  EXPECT_LE(peak_bytes() - before, kLength * kLength * sizeof(float) / 4.0);
}

TEST_F(AttentionTransferTest, TheTeacherHasNoGradient) {
  const Variable q = Variable::leaf(random({1, 3, 1, 2})), f = Variable::leaf(random({1, 3, 1, 2}, true));
  const Variable loss = apply<AttentionTransfer>(ctx, {.scale = 1}, q, q, f, f);
  EXPECT_THROW(backward(ctx, loss, MicroStep::last), ShapeError);
}

// Maps of one head learn the weights of a softmax head, and with them how spiky they are.
TEST_F(AttentionTransferTest, MapsLearnASoftmaxHead) {
  const int64_t T = 64, E = 8, Dh = 16, Df = 32;
  const Tensor x = random({1, T, 1, E});
  // Queries and keys of unit size, from rows of E numbers.
  const auto project = [&](Tensor weight) {
    for (int64_t i = 0; i < weight.numel(); ++i)
      weight.data<double>()[i] /= std::sqrt(static_cast<double>(E));
    return apply<HeadLinear>(ctx, {}, Variable(x), Variable(weight), Variable()).value();
  };
  const Tensor q = project(random({1, Dh, E})), k = project(random({1, Dh, E}));
  const double scale = 1 / std::sqrt(static_cast<double>(Dh));
  std::vector<double> identity(static_cast<size_t>(Df * Dh));
  for (int64_t i = 0; i < Dh; ++i) identity[i * Dh + i] = 1;
  const std::vector<Variable> maps{Variable::leaf(Tensor::from<double>(identity, {1, Df, Dh}, *stream)),
                                   Variable::leaf(Tensor::from<double>(identity, {1, Df, Dh}, *stream))};
  std::vector<Tensor> features(2);
  const auto divergence = [&] {
    std::vector<Variable> outputs;
    for (const auto& [map, rows] : {std::pair(maps[0], q), std::pair(maps[1], k)})
      outputs.push_back(apply<HedgehogMap>(ctx, {.features = HedgehogFeatures::softmax},
                                           apply<HeadLinear>(ctx, {}, Variable(rows), map, Variable()),
                                           Tensor()));
    features = {outputs[0].value(), outputs[1].value()};
    return apply<AttentionTransfer>(ctx, {.scale = scale}, q, k, outputs[0], outputs[1]);
  };
  const auto entropy = [&](const std::vector<double>& weights) {
    double sum = 0, result = 0;
    for (const double w : weights) sum += w;
    for (const double w : weights) result -= w / sum * std::log(w / sum);
    return result;
  };
  const auto mean_entropy = [&](const Tensor& x, const Tensor& y, const auto& weight) {
    double sum = 0;
    for (int64_t i = 0; i < T; ++i) {
      std::vector<double> weights;
      for (int64_t j = 0; j <= i; ++j) {
        double product = 0;
        for (int64_t c = 0; c < x.size(3); ++c)
          product += x.data<double>()[i * x.size(3) + c] * y.data<double>()[j * x.size(3) + c];
        weights.push_back(weight(product));
      }
      sum += entropy(weights);
    }
    return sum / static_cast<double>(T);
  };
  const auto student = [&] { return mean_entropy(features[0], features[1], [](double w) { return w; }); };
  const double teacher = mean_entropy(q, k, [&](double s) { return std::exp(scale * s); });

  // Adam without a correction of its averages' start.
  std::vector<std::vector<double>> means(2), squares(2);
  for (auto* moments : {&means, &squares})
    for (auto& moment : *moments) moment.assign(identity.size(), 0);
  double first = 0, last = 0, first_entropy = 0;
  for (int step = 0; step < 300; ++step) {
    const Variable loss = divergence();
    last = loss.value().to_vector<double>(*stream)[0];
    if (step == 0) first = last, first_entropy = student();
    for (const Variable& map : maps) map.edge().leaf->written = false;
    backward(ctx, loss, MicroStep::last);
    for (size_t m = 0; m < 2; ++m)
      for (size_t i = 0; i < identity.size(); ++i) {
        const double g = maps[m].grad().data<double>()[i];
        means[m][i] = 0.9 * means[m][i] + 0.1 * g;
        squares[m][i] = 0.99 * squares[m][i] + 0.01 * g * g;
        maps[m].value().data<double>()[i] -= 0.03 * means[m][i] / (std::sqrt(squares[m][i]) + 1e-10);
      }
  }
  EXPECT_LE(last, 0.1 * first) << "from " << first << " to " << last;
  EXPECT_LE(std::abs(student() - teacher), 0.25 * std::abs(first_entropy - teacher))
      << "from " << first_entropy << " to " << student() << " for " << teacher;
}

}  // namespace
}  // namespace headway
