// Every operation against central differences in float64.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "autograd/apply.h"
#include "autograd/engine.h"
#include "autograd/gradcheck.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/gelu_mlp.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/linear_cross_entropy.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/norm_rope.h"
#include "autograd/ops/rope.h"
#include "autograd/recompute.h"
#include "core/backend.h"
#include "tests/support/cosines_and_sines.h"
#include "tests/support/seed.h"

namespace headway {
namespace {

// The five-point formula leaves h^4 / 30 of the fifth derivative and rounding 1e-16 |L| / h, with h = 1e-3 or
// 1e-4: both are some 1e-11 where inputs are of order one.
constexpr double kLimit = 1e-9;

class OpsTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  const uint32_t seed = fresh_seed();
  Rng rng{seed};
  Context ctx{.stream = *stream, .rng = rng, .training = true};

  Variable leaf(const Shape& shape, double scale = 1) {
    return Variable::leaf(
        Tensor::from<double>(random_values<double>(shape.numel(), seed, next_++, scale), shape, *stream));
  }
  Tensor ids(const Shape& shape, int64_t limit) {
    std::vector<int32_t> values(static_cast<size_t>(shape.numel()));
    const RandomKey key{seed, 0, next_++, 0};
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<int32_t>(random_bits(key, i) % static_cast<uint64_t>(limit));
    return Tensor::from<int32_t>(values, shape, *stream);
  }
  void expect_gradients(const std::vector<Variable>& leaves, const CheckedFunction& function) {
    const GradCheck check = gradcheck(ctx, function, leaves);
    EXPECT_TRUE(check.error <= kLimit) << "error " << check.error << ": " << check.worst;
  }

 private:
  uint32_t next_ = 0;
  testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

TEST_F(OpsTest, Linear) {
  for (const Shape& shape : {Shape{5, 4}, Shape{2, 3, 4}, Shape{1, 4}, Shape{1, 1, 1}}) {
    const Variable x = leaf(shape), weight = leaf({6, shape[-1]}), bias = leaf({6});
    expect_gradients({x, weight, bias},
                     [&](Context& c) { return std::vector{apply<Linear>(c, {}, x, weight, bias)}; });
    expect_gradients({x, weight},
                     [&](Context& c) { return std::vector{apply<Linear>(c, {}, x, weight, Variable())}; });
  }
}

TEST_F(OpsTest, GradientsThatNobodyWantsAreNotMade) {
  const Variable x = leaf({5, 4}), weight = leaf({6, 4}), norm_weight = leaf({4});
  const Variable frozen_weight(weight.value()), frozen_x(x.value()), frozen_norm(norm_weight.value());
  expect_gradients(
      {x}, [&](Context& c) { return std::vector{apply<Linear>(c, {}, x, frozen_weight, Variable())}; });
  expect_gradients(
      {weight}, [&](Context& c) { return std::vector{apply<Linear>(c, {}, frozen_x, weight, Variable())}; });
  expect_gradients({x}, [&](Context& c) {
    return std::vector{apply<Norm>(c, {.kind = NormKind::layer}, x, frozen_norm, Variable())};
  });
  expect_gradients({norm_weight}, [&](Context& c) {
    return std::vector{apply<Norm>(c, {.kind = NormKind::rms}, frozen_x, norm_weight, Variable())};
  });
  const Tensor targets = ids({5}, 6);
  expect_gradients({x}, [&](Context& c) {
    return std::vector{apply<LinearCrossEntropy>(c, {}, x, frozen_weight, targets)};
  });
}

TEST_F(OpsTest, AddNorm) {
  const Variable x = leaf({2, 3, 5}), update = leaf({2, 3, 5}), weight = leaf({5}), bias = leaf({5});
  for (const NormKind kind : {NormKind::rms, NormKind::layer})
    for (const bool uses_sum : {false, true}) {
      std::vector<Variable> leaves{x, update, weight};
      if (kind == NormKind::layer) leaves.push_back(bias);
      expect_gradients(leaves, [&](Context& c) {
        const auto [sum, normed] = apply<headway::AddNorm>(c, {.kind = kind}, x, update, weight,
                                                           kind == NormKind::layer ? bias : Variable());
        return uses_sum ? std::vector{sum, normed} : std::vector{normed};
      });
    }
}

TEST_F(OpsTest, Norm) {
  for (const NormKind kind : {NormKind::rms, NormKind::layer})
    for (const Shape& shape : {Shape{7, 9}, Shape{2, 3, 4, 10}, Shape{40, 8}}) {
      const Variable x = leaf(shape), weight = leaf({shape[-1]}), bias = leaf({shape[-1]});
      expect_gradients({x, weight}, [&](Context& c) {
        return std::vector{apply<headway::Norm>(c, {.kind = kind}, x, weight, Variable())};
      });
      if (kind == NormKind::rms) continue;
      expect_gradients({x, weight, bias}, [&](Context& c) {
        return std::vector{apply<headway::Norm>(c, {.kind = kind}, x, weight, bias)};
      });
    }
}

TEST_F(OpsTest, Activations) {
  const Variable gate = leaf({3, 7}, 2), up = leaf({3, 7});
  expect_gradients({gate, up}, [&](Context& c) { return std::vector{apply<SwiGlu>(c, {}, gate, up)}; });
  expect_gradients({gate}, [&](Context& c) { return std::vector{apply<Silu>(c, {}, gate)}; });
}

TEST_F(OpsTest, GeluMlp) {
  const Variable x = leaf({2, 3, 4}), up = leaf({7, 4}), up_bias = leaf({7}), down = leaf({5, 7}),
                 down_bias = leaf({5}), none;
  expect_gradients({x, up, up_bias, down, down_bias}, [&](Context& c) {
    return std::vector{apply<headway::GeluMlp>(c, {}, x, up, up_bias, down, down_bias)};
  });
  expect_gradients({x, up, down}, [&](Context& c) {
    return std::vector{apply<headway::GeluMlp>(c, {}, x, up, none, down, none)};
  });
}

TEST_F(OpsTest, Embedding) {
  const Variable weight = leaf({5, 3});
  const Tensor tokens = ids({2, 6}, 4);  // some rows several times, one never
  expect_gradients({weight},
                   [&](Context& c) { return std::vector{apply<headway::Embedding>(c, {}, tokens, weight)}; });
}

TEST_F(OpsTest, AddPositions) {
  const Variable x = leaf({2, 4, 3}), weight = leaf({7, 3});
  for (const int64_t offset : {0, 3})
    expect_gradients({x, weight}, [&](Context& c) {
      return std::vector{apply<headway::AddPositions>(c, {.positions = {.first = offset}}, x, weight)};
    });
}

TEST_F(OpsTest, Rope) {
  const Variable x = leaf({2, 3, 2, 6});
  const std::vector<double> table = cosines_and_sines(random_values<double>(3 * 2, seed, 1000, 2));
  const Tensor angles = Tensor::from<double>(table, {3, 2, 2}, *stream);
  expect_gradients({x}, [&](Context& c) { return std::vector{apply<headway::Rope>(c, {}, x, angles)}; });
}

TEST_F(OpsTest, NormRope) {
  const Variable x = leaf({2, 3, 2, 6}), weight = leaf({6});
  const std::vector<double> table = cosines_and_sines(random_values<double>(3 * 2, seed, 1000, 2));
  for (const Tensor& angles : {Tensor::from<double>(table, {3, 2, 2}, *stream), Tensor()})
    expect_gradients({x, weight}, [&](Context& c) {
      return std::vector{apply<headway::NormRope>(c, {}, x, weight, angles)};
    });
}

TEST_F(OpsTest, AddScaleAndDropout) {
  const Variable a = leaf({4, 5}), b = leaf({4, 5});
  expect_gradients({a, b}, [&](Context& c) { return std::vector{apply<Add>(c, {}, a, b)}; });
  expect_gradients({a}, [&](Context& c) { return std::vector{apply<Scale>(c, {.factor = -2.5}, a)}; });
  expect_gradients({a}, [&](Context& c) { return std::vector{dropout(c, a, 0.4), dropout(c, a, 0.4)}; });
}

TEST_F(OpsTest, DropoutIsTheInputOutsideTraining) {
  const Variable x = leaf({4, 5});
  ctx.training = false;
  EXPECT_EQ(dropout(ctx, x, 0.4).value().raw(), x.value().raw());
  EXPECT_EQ(ctx.rng.position(), 0u);
}

TEST_F(OpsTest, LinearCrossEntropyInOneBlockAndInSeveral) {
  const int64_t rows = 7, vocabulary = 9;
  const Variable x = leaf({rows, 4}), weight = leaf({vocabulary, 4});
  const Tensor targets = ids({rows}, vocabulary);
  targets.data<int32_t>()[2] = -1;
  const size_t row_bytes = vocabulary * sizeof(double);
  std::vector<double> losses;
  for (const size_t block_bytes : {size_t{64} << 20, 7 * row_bytes, 3 * row_bytes, row_bytes, size_t{1}}) {
    SCOPED_TRACE(block_bytes);
    const CheckedFunction loss = [&](Context& c) {
      return std::vector{
          apply<LinearCrossEntropy>(c, {.loss_scale = 0.25, .block_bytes = block_bytes}, x, weight, targets)};
    };
    expect_gradients({x, weight}, loss);
    losses.push_back(loss(ctx)[0].value().data<double>()[0]);
  }
  for (const double value : losses) EXPECT_NEAR(value, losses[0], 1e-12);
}

TEST_F(OpsTest, LinearCrossEntropyIsTheNegativeLogLikelihood) {
  const Variable x = leaf({3, 4}), weight = leaf({5, 4});
  const Tensor targets = Tensor::from<int32_t>(std::vector<int32_t>{4, -1, 0}, {3}, *stream);
  double expected = 0;
  for (const int row : {0, 2}) {
    double logits[5] = {}, sum = 0;
    for (int v = 0; v < 5; ++v) {
      for (int d = 0; d < 4; ++d)
        logits[v] += x.value().data<double>()[row * 4 + d] * weight.value().data<double>()[v * 4 + d];
      sum += std::exp(logits[v]);
    }
    expected -= std::log(std::exp(logits[targets.data<int32_t>()[row]]) / sum);
  }
  const Variable loss = apply<LinearCrossEntropy>(ctx, {.loss_scale = 0.5}, x, weight, targets);
  EXPECT_NEAR(loss.value().data<double>()[0], expected / 2, 1e-12);
}

// Logits are the largest tensor of a step: their gradient must take their place.
TEST_F(OpsTest, LinearCrossEntropyHoldsOneBlockOfLogits) {
  const int64_t rows = 64, width = 8, vocabulary = 4096;
  const auto values = [&](const Shape& shape, uint32_t which) {
    return Tensor::from<float>(random_values<float>(shape.numel(), seed, which), shape, *stream);
  };
  const Tensor targets = ids({rows}, vocabulary);
  const size_t logit_bytes = static_cast<size_t>(rows * vocabulary) * sizeof(float);
  const size_t gradient_bytes = static_cast<size_t>((vocabulary + rows) * width) * sizeof(float);
  for (const size_t blocks : {1, 4}) {
    SCOPED_TRACE(blocks);
    const Variable x = Variable::leaf(values({rows, width}, 100)),
                   weight = Variable::leaf(values({vocabulary, width}, 101));
    ctx.recording = true;
    const size_t before = memory_stats(Device{}).in_use_bytes;
    reset_peak_memory(Device{});
    backward(ctx, apply<LinearCrossEntropy>(ctx, {.block_bytes = logit_bytes / blocks}, x, weight, targets));
    const size_t used = memory_stats(Device{}).peak_in_use_bytes - before;
    const size_t small = size_t{8} << 10;  // losses, the loss, its seed
    EXPECT_LE(used, logit_bytes / blocks + 2 * gradient_bytes + small);
    EXPECT_GE(used, logit_bytes / blocks) << "memory is counted";
  }
}

TEST_F(OpsTest, RecomputedBlocksDropTheSameElements) {
  const Variable x = leaf({4, 5}), weight = leaf({3, 5});
  const BlockFunction block = [&](Context& c, const Variable& input) {
    return dropout(c, apply<Silu>(c, {}, apply<Linear>(c, {}, input, weight, Variable())), 0.5);
  };
  expect_gradients({x, weight}, [&](Context& c) {
    return std::vector{recompute(c, block, x, {weight.edge().leaf}), dropout(c, x, 0.5)};
  });
}

// A tied head and embedding write one gradient from two operations.
TEST_F(OpsTest, OneParameterInTwoOperations) {
  const Variable weight = leaf({6, 4});
  const Tensor tokens = ids({5}, 6), targets = ids({5}, 6);
  expect_gradients({weight}, [&](Context& c) {
    const Variable x = apply<headway::Embedding>(c, {}, tokens, weight);
    return std::vector{apply<LinearCrossEntropy>(c, {}, x, weight, targets)};
  });
}

// The checker itself must see a wrong gradient.
struct WrongSquare {
  static constexpr const char* name = "wrong_square";
  struct Config {
    double factor = 2;
    bool overwrites_always = false;
  };
  struct Saved {
    Tensor x;
    Config config;
    auto tensors() const { return std::tie(x); }
  };
  static Tensor forward(Context&, Saved* saved, const Config& config, const Tensor& x) {
    if (saved) *saved = {x, config};
    const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
    for (int64_t i = 0; i < x.numel(); ++i) y.data<double>()[i] = x.data<double>()[i] * x.data<double>()[i];
    return y;
  }
  static Grads<1> backward(Context&, const Saved& saved, const Tensor& dy, const Needs<1>& needs) {
    const Tensor dx = needs[0].tensor(saved.x.shape(), DType::f64, saved.x.device());
    const bool accumulate = needs[0].accumulates(DType::f64) && !saved.config.overwrites_always;
    for (int64_t i = 0; i < dx.numel(); ++i) {
      const double gradient = saved.config.factor * saved.x.data<double>()[i] * dy.data<double>()[i];
      dx.data<double>()[i] = gradient + (accumulate ? dx.data<double>()[i] : 0);
    }
    return {dx};
  }
};

TEST_F(OpsTest, GradcheckSeesWrongGradients) {
  const Variable x = leaf({5});
  const auto error = [&](const WrongSquare::Config& config) {
    const std::vector leaves{x};
    return gradcheck(
               ctx, [&](Context& c) { return std::vector{apply<WrongSquare>(c, config, x)}; }, leaves)
        .error;
  };
  EXPECT_LE(error({}), kLimit);
  EXPECT_GT(error({.factor = 2.0001}), 1e-5);
  EXPECT_GT(error({.overwrites_always = true}), 1);
}

}  // namespace
}  // namespace headway
