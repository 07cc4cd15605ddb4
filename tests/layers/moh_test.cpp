// Mixtures of heads against the formulas of arXiv 2410.11842 and of its released code, in plain loops.
#include <gtest/gtest.h>

#include <algorithm>

#include "autograd/apply.h"
#include "autograd/ops/moh_gates.h"
#include "autograd/ops/softmax_attention.h"
#include "core/error.h"
#include "kernels/attention/variants/listed_rows.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class MohTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json base{{"num_heads", 6}, {"num_kv_heads", 2}, {"head_dim", 4}};

  struct Routed {
    Tensor gates;  // [B,H,T]
    double balance_loss;
    Tensor row_index;  // [B,H,T]
  };
  /// z [B,T,N]
  Routed route(const MohConfig& routing, const Tensor& z) {
    const auto [gates, loss, row_index] =
        apply<MohGates>(ctx, {.routing = routing, .num_heads = num_heads(routing, z)}, Variable(z));
    return {gates.value(), loss.value().to_vector<double>(*stream)[0], row_index.value()};
  }
  static int64_t num_heads(const MohConfig& routing, const Tensor& z) {
    return z.size(2) - (routing.shared_heads > 0 ? 2 : 0);
  }
  /// Gates [H] of one token.
  std::vector<double> gates(const MohConfig& routing, const std::vector<double>& logits) {
    const auto n = static_cast<int64_t>(logits.size());
    return route(routing, Tensor::from<double>(logits, {1, 1, n}, *stream)).gates.to_vector<double>(*stream);
  }
  /// Sums over a token's heads from first to end.
  static double sum(const Tensor& gates, int64_t b, int64_t t, int64_t first, int64_t end) {
    const auto g = gates.view<const double, 3>("gates");
    double total = 0;
    for (int64_t h = first; h < end; ++h) total += g(b, h, t);
    return total;
  }
  /// Both modes, with and without shared heads, of 6 heads.
  static std::vector<MohConfig> all_routings() {
    std::vector<MohConfig> all;
    for (const bool renormalises : {true, false})
      for (const int64_t shared : {0, 2})
        for (const int64_t top_k : {int64_t{2}, 6 - shared})
          all.push_back({.shared_heads = shared, .top_k = top_k, .renormalises = renormalises});
    return all;
  }
  Tensor logits_of(const MohConfig& routing) { return random({2, 5, routing.num_logits(6)}); }
  /// The softmax of logits[first], ..., logits[end - 1].
  static std::vector<double> softmax_of(const double* logits, int64_t first, int64_t end) {
    std::vector<double> p;
    double total = 0;
    for (int64_t i = first; i < end; ++i) total += p.emplace_back(std::exp(logits[i]));
    for (double& value : p) value /= total;
    return p;
  }
};

TEST_F(MohTest, GatesOfATokenSumToTheirShares) {
  for (const MohConfig& routing : all_routings()) {
    const int64_t shared = routing.shared_heads;
    const Tensor z = logits_of(routing), gates = route(routing, z).gates;
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t t = 0; t < 5; ++t) {
        const double of_shared = sum(gates, b, t, 0, shared), of_routed = sum(gates, b, t, shared, 6);
        if (!routing.renormalises) {
          // Probabilities of two nested choices, of which some were dropped.
          EXPECT_LE(of_shared + of_routed, 1 + 1e-14);
          if (routing.top_k == 6 - shared) {
            EXPECT_NEAR(of_shared + of_routed, 1, 1e-14);
          }
        } else if (shared == 0) {
          EXPECT_NEAR(of_routed, static_cast<double>(routing.top_k), 1e-13);
        } else {
          EXPECT_NEAR(
              of_shared / static_cast<double>(shared) + of_routed / static_cast<double>(routing.top_k), 2,
              1e-13);
        }
      }
  }
}

TEST_F(MohTest, AHeadListsTheTokensThatUseIt) {
  for (const MohConfig& routing : all_routings()) {
    const Routed routed = route(routing, logits_of(routing));
    const auto gates = routed.gates.view<const double, 3>("gates");
    const auto rows = routed.row_index.view<const int32_t, 3>("row_index");
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t h = 0; h < 6; ++h) {
        int64_t listed = 0;
        for (int64_t t = 0; t < 5; ++t)
          if (gates(b, h, t) != 0) {
            EXPECT_EQ(rows(b, h, listed++), t);
          }
        while (listed < 5) EXPECT_EQ(rows(b, h, listed++), -1);
      }
  }
}

TEST_F(MohTest, AConstantAddedToAGroupOfLogitsChangesNothing) {
  for (const MohConfig& routing : all_routings()) {
    const int64_t shared = routing.shared_heads, n = routing.num_logits(6);
    const Tensor z = logits_of(routing);
    const Routed before = route(routing, z);
    for (const auto& [first, end] : {std::pair{int64_t{0}, shared}, {shared, int64_t{6}}, {int64_t{6}, n}}) {
      const Tensor moved = z.clone(*stream);
      for (int64_t row = 0; row < 10; ++row)
        for (int64_t i = first; i < end; ++i) moved.data<double>()[row * n + i] += 1.75;
      const Routed after = route(routing, moved);
      expect_near(after.gates, before.gates, 1e-13);
      EXPECT_NEAR(after.balance_loss, before.balance_loss, 1e-13);
    }
  }
}

// Renormalised over the chosen heads, gates do not know the logits of the others; plain probabilities do.
TEST_F(MohTest, LogitsOfUnusedHeadsMatterToPlainProbabilitiesAlone) {
  for (const bool renormalises : {true, false}) {
    const MohConfig routing{.shared_heads = 2, .top_k = 2, .renormalises = renormalises};
    const Tensor z = logits_of(routing), dgates = random({2, 6, 5});
    ctx.recording = true;
    const Variable leaf = Variable::leaf(z);
    const Variable root = apply<MohGates>(ctx, {.routing = routing, .num_heads = 6}, leaf)[0];
    backward(ctx, std::span(&root, 1), std::span(&dgates, 1), MicroStep::last);
    ctx.recording = false;
    const Tensor lowered = z.clone(*stream);
    const auto g = root.value().view<const double, 3>("gates");
    const auto dz = leaf.grad().view<const double, 3>("dz");
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t t = 0; t < 5; ++t)
        for (int64_t h = 2; h < 6; ++h) {
          if (g(b, h, t) != 0) continue;
          if (renormalises)
            EXPECT_EQ(dz(b, t, h), 0);
          else
            EXPECT_NE(dz(b, t, h), 0);
          lowered.view<double, 3>("z")(b, t, h) -= 1;  // and so still unused
        }
    const Routed before = route(routing, z), after = route(routing, lowered);
    // Where all heads are used alike, the probabilities' sum of one is all that the loss sees of them.
    std::vector<int64_t> load(4);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t t = 0; t < 5; ++t)
        for (int64_t h = 2; h < 6; ++h) load[static_cast<size_t>(h - 2)] += g(b, h, t) != 0;
    if (std::ranges::count(load, load[0]) == 4) {
      EXPECT_NEAR(after.balance_loss, before.balance_loss, 1e-14);
    } else {
      EXPECT_NE(after.balance_loss, before.balance_loss);
    }
    if (renormalises)
      expect_equal_bits(after.gates, before.gates);
    else
      EXPECT_NE(after.gates.to_vector<double>(*stream), before.gates.to_vector<double>(*stream));
  }
}

TEST_F(MohTest, BalanceLossOfUniformAndOfConcentratedRouters) {
  for (const bool renormalises : {true, false})
    for (const int64_t top_k : {2, 3}) {
      const MohConfig routing{.shared_heads = 2, .top_k = top_k, .renormalises = renormalises};
      const double c = renormalises ? 4 : 1, uniform = c * static_cast<double>(top_k) / 4;
      const Tensor z = Tensor::zeros({2, 5, 8}, DType::f64, *stream);
      EXPECT_NEAR(route(routing, z).balance_loss, uniform, 1e-14);
      for (int64_t row = 0; row < 10; ++row)
        for (int64_t i = 6 - top_k; i < 6; ++i) z.data<double>()[row * 8 + i] = 50;
      EXPECT_NEAR(route(routing, z).balance_loss, c, 1e-14);
      // A single token chooses what it finds likely: no less than the uniform value.
      for (int n = 0; n < 20; ++n) EXPECT_GE(route(routing, random({1, 1, 8})).balance_loss, uniform - 1e-14);
    }
}

// The uniform value is no lower bound: one token far from the border, two just beyond it.
TEST_F(MohTest, BalanceLossMayBeBelowThatOfAUniformRouter) {
  const MohConfig routing{.shared_heads = 0, .top_k = 1, .renormalises = false};
  const auto logit = [](double p) { return std::log(p / (1 - p)); };
  const std::vector<double> z{logit(0.99), 0, logit(0.49), 0, logit(0.49), 0};
  const double loss = route(routing, Tensor::from<double>(z, {1, 3, 2}, *stream)).balance_loss;
  EXPECT_NEAR(loss, (0.99 + 0.49 + 0.49) / 3 / 3 + (0.01 + 0.51 + 0.51) / 3 * 2 / 3, 1e-14);
  EXPECT_LE(loss, 0.4479);  // 0.5 were uniform
}

// Shares and probabilities are of one micro-batch of one rank, as in the released code: two halves that each
// favour a head cost 0.9, both together 0.5.
TEST_F(MohTest, BalanceLossIsThatOfAMicroBatch) {
  const MohConfig routing{.shared_heads = 0, .top_k = 1, .renormalises = false};
  const double z = std::log(9);
  const Tensor both = Tensor::from<double>(std::vector<double>{z, 0, 0, z}, {1, 2, 2}, *stream);
  for (const int64_t t : {0, 1})
    EXPECT_NEAR(route(routing, both.slice(1, t, t + 1)).balance_loss, 0.9, 1e-14);
  EXPECT_NEAR(route(routing, both).balance_loss, 0.5, 1e-14);
}

// The shares f are constants, so the loss is differentiated as a function of the probabilities alone.
TEST_F(MohTest, BalanceLossHasTheGradientOfItsProbabilities) {
  const MohConfig routing{.shared_heads = 1, .top_k = 2, .renormalises = true};
  const Tensor logits = random({2, 7, 6});
  ctx.recording = true;
  const Variable z = Variable::leaf(logits.clone(*stream));
  const Variable loss = apply<MohGates>(ctx, {.routing = routing, .num_heads = 4}, z)[1];
  backward(ctx, loss, MicroStep::last);
  const std::vector<double> gradient = z.grad().to_vector<double>(*stream);
  constexpr double kStep = 1e-5;
  for (int64_t i = 0; i < logits.numel(); ++i) {
    const auto routed_at = [&](double shift) {
      const Tensor moved = logits.clone(*stream);
      moved.data<double>()[i] += shift;
      return route(routing, moved);
    };
    const auto used = [&](const Routed& routed) {
      std::vector<bool> heads;
      for (const double gate : routed.gates.to_vector<double>(*stream)) heads.push_back(gate != 0);
      return heads;
    };
    const Routed above = routed_at(kStep), below = routed_at(-kStep);
    if (used(above) != used(below)) continue;  // the step crosses a choice, where the loss jumps
    EXPECT_LE(std::abs((above.balance_loss - below.balance_loss) / (2 * kStep) - gradient[i]), 1e-9) << i;
  }
}

// With every head chosen and zero logits all renormalised gates are one.
TEST_F(MohTest, AllHeadsAlikeIsSoftmaxAttention) {
  const auto softmax = make("softmax", kDim, base);
  for (const int64_t shared : {0, 2}) {
    const auto moh = make("moh", kDim, with(base, {{"shared_heads", shared}, {"top_k", 6 - shared}}));
    copy_parameters(*softmax, *moh);
    fill(*moh, "router/weight", 0);
    const Tensor x = random({2, 9, kDim});
    expect_near(run(*moh, x), run(*softmax, x), 1e-14);
  }
}

// All heads used: the heads of softmax attention times gates worked out here.
TEST_F(MohTest, OutputsAreThoseOfTheHeadsTimesTheirGates) {
  constexpr int64_t kWidth = 24, kLength = 9;
  const auto softmax = make("softmax", kWidth, base);
  expose_heads(*softmax);
  for (const char* mode : {"renorm", "paper"})
    for (const int64_t shared : {0, 2}) {
      SCOPED_TRACE(mode + std::to_string(shared));
      const auto moh = make(
          "moh", kWidth, with(base, {{"shared_heads", shared}, {"top_k", 6 - shared}, {"gate_mode", mode}}));
      copy_parameters(*softmax, *moh);
      const Tensor x = random({2, kLength, kWidth}), heads = run(*softmax, x);
      const Tensor z = product(x, parameter(*moh, "router/weight").value), expected = heads.clone(*stream);
      const int64_t n = z.size(2), routed = 6 - shared;
      for (int64_t row = 0; row < 2 * kLength; ++row) {
        const double* const logits = z.data<double>() + row * n;
        const auto ps = softmax_of(logits, 0, shared), pr = softmax_of(logits, shared, 6);
        const auto mix = shared > 0 ? softmax_of(logits, 6, 8) : std::vector<double>{0, 1};
        for (int64_t c = 0; c < kWidth; ++c) {
          const int64_t h = c / 4;
          double gate =
              h < shared ? mix[0] * ps[static_cast<size_t>(h)] : mix[1] * pr[static_cast<size_t>(h - shared)];
          if (mode == std::string("renorm"))
            gate *= static_cast<double>(h < shared ? shared : routed) * (shared > 0 ? 2 : 1);
          expected.data<double>()[row * kWidth + c] *= gate;
        }
      }
      expect_near(run(*moh, x), expected, 1e-12);
    }
}

// Token 2 does not use head 1: its query is no part of anything, its key and value are.
TEST_F(MohTest, AnUnusedHeadReadsNothingAndIsStillRead) {
  constexpr int64_t kLength = 6, kToken = 2, kHead = 1;
  const Tensor q = random({1, kLength, 2, 4}), k = random({1, kLength, 2, 4}), v = random({1, kLength, 2, 4}),
               gates = random({1, 2, kLength}), dy = random({1, kLength, 2, 4});
  gates.view<double, 3>("gates")(0, kHead, kToken) = 0;
  const Tensor rows =
      Tensor::from<int32_t>({{0, 1, 2, 3, 4, 5, 0, 1, 3, 4, 5, -1}}, {1, 2, kLength}, *stream);
  ctx.recording = true;
  const Variable query = Variable::leaf(q), key = Variable::leaf(k), value = Variable::leaf(v);
  const auto output = [&](const Variable& q_, const Variable& k_, const Variable& v_) {
    return softmax_attention<attention::ListedRows>(
        ctx, {.q = q_, .k = k_, .v = v_, .row_scale = Variable(gates), .row_index = rows}, {});
  };
  const Variable y = output(query, key, value);
  backward(ctx, std::span(&y, 1), std::span(&dy, 1), MicroStep::last);
  ctx.recording = false;
  const auto row = [](const Tensor& x) { return &x.view<double, 4>("x")(0, kToken, kHead, 0); };
  for (int64_t d = 0; d < 4; ++d) {
    EXPECT_EQ(row(y.value())[d], 0);
    EXPECT_EQ(row(query.grad())[d], 0);
    EXPECT_NE(row(key.grad())[d], 0);
    EXPECT_NE(row(value.grad())[d], 0);
  }
  const Tensor moved = q.clone(*stream);
  for (int64_t d = 0; d < 4; ++d) row(moved)[d] += 1;
  // But for the sign of the row's zeros.
  expect_multiple(output(Variable(moved), Variable(k), Variable(v)).value(), 1, y.value());
  for (const bool of_key : {true, false}) {
    const Tensor other = (of_key ? k : v).clone(*stream);
    for (int64_t d = 0; d < 4; ++d) row(other)[d] += 1;
    const Tensor changed =
        output(Variable(q), Variable(of_key ? other : k), Variable(of_key ? v : other)).value();
    const auto after = changed.view<double, 4>("y"), before = y.value().view<double, 4>("y");
    EXPECT_NE(after(0, kLength - 1, kHead, 0), before(0, kLength - 1, kHead, 0));
  }
}

TEST_F(MohTest, TiesGoToTheSmallerHead) {
  const MohConfig routing{.shared_heads = 0, .top_k = 2, .renormalises = true};
  const std::vector<double> tied = gates(routing, {1, 1, 1, 1});
  for (size_t h = 0; h < tied.size(); ++h) EXPECT_EQ(tied[h], h < 2 ? 1.0 : 0.0) << h;
  const Tensor all_tied = route(routing, Tensor::zeros({2, 7, 4}, DType::f64, *stream)).gates;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t t = 0; t < 7; ++t) EXPECT_EQ(sum(all_tied, b, t, 2, 4), 0);
  const std::vector<double> later = gates(routing, {0, 1, 0, 0});
  EXPECT_GT(later[1], 1);
  EXPECT_GT(later[0], 0);
  EXPECT_EQ(later[2] + later[3], 0);
}

TEST_F(MohTest, ImpossibleChoicesAreOneSentence) {
  EXPECT_THROW(declare("moh", kDim, with(base, {{"shared_heads", 6}})), ConfigError);
  EXPECT_THROW(declare("moh", kDim, with(base, {{"top_k", 5}})), ConfigError);
  EXPECT_THROW(declare("moh", kDim, with(base, {{"top_k", 1}})), ConfigError);
}

}  // namespace
}  // namespace headway::testing
