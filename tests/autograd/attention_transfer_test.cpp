// The loss that teaches a linear attention the weights of softmax attention.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "autograd/apply.h"
#include "autograd/engine.h"
#include "autograd/gradcheck.h"
#include "autograd/ops/attention_transfer.h"
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

TEST_F(AttentionTransferTest, TheTeacherHasNoGradient) {
  const Variable q = Variable::leaf(random({1, 3, 1, 2})), f = Variable::leaf(random({1, 3, 1, 2}, true));
  const Variable loss = apply<AttentionTransfer>(ctx, {.scale = 1}, q, q, f, f);
  EXPECT_THROW(backward(ctx, loss, MicroStep::last), ShapeError);
}

}  // namespace
}  // namespace headway
