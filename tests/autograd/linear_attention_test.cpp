// Linear attention: against its quadratic definition, against central differences, and in segments.
#include "tests/autograd/linear_attention_test.h"

#include <algorithm>
#include <cstring>

#include "autograd/gradcheck.h"

namespace headway {
namespace {

using Case = LinearCase;

// Chunks hold 64 tokens: one short chunk, exactly one, and several with a rest.
const Case kCases[] = {
    {.B = 1, .T = 1, .H = 1, .F = 1, .V = 1},
    {.B = 2, .T = 7, .H = 2, .F = 5, .V = 3, .decay = true, .state = true},
    {.B = 1, .T = 64, .H = 1, .F = 4, .V = 9, .normalise = true},
    {.B = 2,
     .T = 65,
     .H = 2,
     .F = 17,
     .V = 2,
     .decay = true,
     .normalise = true,
     .apart = true,
     .state = true},
    {.B = 1, .T = 150, .H = 1, .F = 3, .V = 4, .normalise = true, .apart = true},
    {.B = 1, .T = 200, .H = 2, .F = 2, .V = 8, .decay = true, .normalise = true, .state = true},
};
LinearAttention::Config config_of(const Case& c) { return {.normalise = c.normalise, .eps = 1e-3}; }

TEST_F(LinearAttentionTest, EqualsItsQuadraticForm) {
  for (const Case& c : kCases) {
    SCOPED_TRACE("T " + std::to_string(c.T));
    const LinearInputs in = inputs(c);
    const Tensor o = linear_attention(ctx, in, config_of(c))[0].value();
    const auto at = [&](const Variable& x, int64_t b, int64_t t, int64_t h, int64_t i) {
      return x.value().data<double>()[((b * c.T + t) * c.H + h) * x.size(3) + i];
    };
    const auto state_at = [&](int64_t b, int64_t h, int64_t f, int64_t i) {
      return in.state.value().data<double>()[((b * c.H + h) * c.F + f) * in.state.size(3) + i];
    };
    const Variable norm_q = c.apart ? in.norm_q : in.q, norm_k = c.apart ? in.norm_k : in.k;
    for (int64_t b = 0; b < c.B; ++b)
      for (int64_t h = 0; h < c.H; ++h)
        for (int64_t t = 0; t < c.T; ++t) {
          const double slope = c.decay ? in.slope.data<double>()[h] : 0;
          std::vector<double> sum(static_cast<size_t>(c.V));
          double denominator = 1e-3;
          const auto add = [&](double decay, auto&& key, auto&& norm_key, auto&& value) {
            double score = 0, weight = 0;
            for (int64_t f = 0; f < c.F; ++f) {
              score += at(in.q, b, t, h, f) * key(f);
              weight += at(norm_q, b, t, h, f) * norm_key(f);
            }
            for (int64_t i = 0; i < c.V; ++i) sum[i] += decay * score * value(i);
            denominator += decay * weight;
          };
          for (int64_t j = 0; j <= t; ++j)
            add(
                std::exp(-slope * static_cast<double>(t - j)),
                [&](int64_t f) { return at(in.k, b, j, h, f); },
                [&](int64_t f) { return at(norm_k, b, j, h, f); },
                [&](int64_t i) { return at(in.v, b, j, h, i); });
          if (c.state) {
            const double decay = std::exp(-slope * static_cast<double>(t + 1));
            for (int64_t f = 0; f < c.F; ++f) {
              for (int64_t i = 0; i < c.V; ++i) sum[i] += decay * at(in.q, b, t, h, f) * state_at(b, h, f, i);
              if (c.normalise) denominator += decay * at(norm_q, b, t, h, f) * state_at(b, h, f, c.V);
            }
          }
          for (int64_t i = 0; i < c.V; ++i) {
            const double expected = c.normalise ? sum[i] / denominator : sum[i];
            const double actual = o.data<double>()[((b * c.T + t) * c.H + h) * c.V + i];
            ASSERT_TRUE(std::abs(actual - expected) <= 1e-11 * (1 + std::abs(expected)))
                << "b " << b << " h " << h << " t " << t << ": " << actual << " for " << expected;
          }
        }
  }
}

TEST_F(LinearAttentionTest, Gradients) {
  for (const Case& c : kCases) {
    SCOPED_TRACE("T " + std::to_string(c.T));
    const LinearInputs in = inputs(c);
    const auto both = [&](Context& context) {
      const auto [o, state] = linear_attention(context, in, config_of(c));
      return std::vector{o, state};
    };
    const auto check = [&](const CheckedFunction& function) {
      const GradCheck result = gradcheck(ctx, function, leaves(in), {.elements_per_leaf = 30});
      // Sums over up to 200 tokens leave as many roundings in the difference quotient.
      EXPECT_TRUE(result.error <= 1e-8) << "error " << result.error << ": " << result.worst;
    };
    check(both);
    check([&](Context& context) { return std::vector{both(context)[0]}; });
  }
}

// Segments whose ends are no ends of chunks, and a token at a time.
TEST_F(LinearAttentionTest, SegmentsCarryTheState) {
  for (const int64_t longest : {1, 70})
    for (Case c : kCases) {
      SCOPED_TRACE("T " + std::to_string(c.T) + " longest segment " + std::to_string(longest));
      c.B = 1;
      const LinearInputs in = inputs(c);
      const auto whole = linear_attention(ctx, in, config_of(c));
      const auto part = [&](const Variable& x, int64_t begin, int64_t end) {
        return x.defined() ? Variable(x.value().slice(1, begin, end)) : Variable();
      };
      Variable state = in.state;
      for (int64_t begin = 0; begin < c.T;) {
        const int64_t end = std::min(c.T, begin + (begin % 3 == 0 ? 1 : longest));
        const auto [o, next] = linear_attention(ctx,
                                                {.q = part(in.q, begin, end),
                                                 .k = part(in.k, begin, end),
                                                 .v = part(in.v, begin, end),
                                                 .norm_q = part(in.norm_q, begin, end),
                                                 .norm_k = part(in.norm_k, begin, end),
                                                 .state = state,
                                                 .slope = in.slope},
                                                config_of(c));
        const Tensor expected = whole[0].value().slice(1, begin, end);
        for (int64_t i = 0; i < expected.numel(); ++i)
          ASSERT_NEAR(o.value().data<double>()[i], expected.data<double>()[i],
                      1e-11 * (1 + std::abs(expected.data<double>()[i])));
        state = next;
        begin = end;
      }
      for (int64_t i = 0; i < state.value().numel(); ++i) {
        const double expected = whole[1].value().data<double>()[i];
        ASSERT_NEAR(state.value().data<double>()[i], expected, 1e-11 * (1 + std::abs(expected)));
      }
    }
}

// Decay and eps of each token: against the recurrence itself, central differences and segments.
TEST_F(LinearAttentionTest, DecayAndEpsMayBeGivenPerToken) {
  for (const Case& c : kCases) {
    if (!c.state) continue;
    SCOPED_TRACE("T " + std::to_string(c.T));
    LinearInputs in = inputs(c);
    in.slope = Tensor();
    in.log_decay = leaf({c.B, c.T, c.H}, true).value();
    for (int64_t i = 0; i < in.log_decay.numel(); ++i)
      in.log_decay.data<double>()[i] *= i % 9 == 0 ? -20 : -0.2;
    if (c.normalise) in.token_eps = leaf({c.B, c.T, c.H}, true).value();
    const auto run = [&](Context& context) {
      const auto [o, state] = linear_attention(context, in, {.normalise = c.normalise});
      return std::vector{o, state};
    };
    const std::vector<Variable> whole = run(ctx);
    const auto at = [&](const Variable& x, int64_t b, int64_t t, int64_t h) {
      return x.value().data<double>() + ((b * c.T + t) * c.H + h) * x.size(3);
    };
    const Variable norm_q = c.apart ? in.norm_q : in.q, norm_k = c.apart ? in.norm_k : in.k;
    const int64_t columns = in.state.size(3);
    for (int64_t b = 0; b < c.B; ++b)
      for (int64_t h = 0; h < c.H; ++h) {
        const double* const first = in.state.value().data<double>() + (b * c.H + h) * c.F * columns;
        std::vector<double> state(first, first + c.F * columns);
        for (int64_t t = 0; t < c.T; ++t) {
          const int64_t token = (b * c.T + t) * c.H + h;
          const double decay = std::exp(in.log_decay.data<double>()[token]);
          double denominator = c.normalise ? in.token_eps.data<double>()[token] : 1;
          std::vector<double> sum(static_cast<size_t>(c.V));
          for (int64_t f = 0; f < c.F; ++f)
            for (int64_t i = 0; i < columns; ++i) {
              double& s = state[f * columns + i];
              s = decay * s +
                  (i < c.V ? at(in.k, b, t, h)[f] * at(in.v, b, t, h)[i] : at(norm_k, b, t, h)[f]);
              (i < c.V ? sum[i] : denominator) +=
                  s * (i < c.V ? at(in.q, b, t, h)[f] : at(norm_q, b, t, h)[f]);
            }
          for (int64_t i = 0; i < c.V; ++i) {
            const double expected = sum[i] / denominator;
            ASSERT_TRUE(std::abs(at(whole[0], b, t, h)[i] - expected) <= 1e-11 * (1 + std::abs(expected)));
          }
        }
        const double* const last = whole[1].value().data<double>() + (b * c.H + h) * c.F * columns;
        for (int64_t i = 0; i < c.F * columns; ++i)
          ASSERT_TRUE(std::abs(last[i] - state[i]) <= 1e-11 * (1 + std::abs(state[i])));
      }
    const GradCheck result = gradcheck(ctx, run, leaves(in), {.elements_per_leaf = 30});
    EXPECT_TRUE(result.error <= 1e-8) << "error " << result.error << ": " << result.worst;
  }
}

// Scaling every query against every key changes nothing where no state enters or leaves.
TEST_F(LinearAttentionTest, GradientsOfQueriesAndKeysBalance) {
  const LinearInputs in = inputs({.B = 2, .T = 130, .H = 2, .F = 6, .V = 5, .decay = true});
  ctx.recording = true;
  const Variable o = linear_attention(ctx, in, {})[0];
  const Tensor dy = leaf(o.shape(), false).value();
  backward(ctx, std::span(&o, 1), std::span(&dy, 1), MicroStep::last);
  double difference = 0, terms = 0;
  for (int64_t i = 0; i < in.q.value().numel(); ++i) {
    const double query = in.q.value().data<double>()[i] * in.q.grad().data<double>()[i],
                 key = in.k.value().data<double>()[i] * in.k.grad().data<double>()[i];
    difference += query - key;
    terms += std::abs(query) + std::abs(key);
  }
  EXPECT_TRUE(std::abs(difference) <= 1e-13 * terms) << difference << " of " << terms;
}

TEST_F(LinearAttentionTest, LimitsOfTheDecay) {
  const int64_t T = 150, F = 4;
  LinearInputs in{
      .q = leaf({1, T, 1, F}, false), .k = leaf({1, T, 1, F}, false), .v = leaf({1, T, 1, 1}, false)};
  in.slope = Tensor::from<double>(std::vector{60.0}, {1}, *stream);
  const Tensor own = linear_attention(ctx, in, {})[0].value();  // each token sees itself alone
  for (int64_t t = 0; t < T; ++t) {
    double score = 0;
    for (int64_t f = 0; f < F; ++f)
      score += in.q.value().data<double>()[t * F + f] * in.k.value().data<double>()[t * F + f];
    EXPECT_NEAR(own.data<double>()[t], score * in.v.value().data<double>()[t], 1e-13);
  }
  const double lambda = 0.9;
  for (const Variable& x : {in.q, in.k})
    std::fill_n(x.value().data<double>(), T * F, 1 / std::sqrt(static_cast<double>(F)));
  std::fill_n(in.v.value().data<double>(), T, 1.0);
  in.slope = Tensor::from<double>(std::vector{-std::log(lambda)}, {1}, *stream);
  const Tensor sums = linear_attention(ctx, in, {})[0].value();  // a geometric series
  for (int64_t t = 0; t < T; ++t)
    EXPECT_NEAR(sums.data<double>()[t], (1 - std::pow(lambda, static_cast<double>(t + 1))) / (1 - lambda),
                1e-12);
}

TEST_F(LinearAttentionTest, WithoutDecayItIsThePrefixSum) {
  LinearInputs in = inputs({.B = 1, .T = 150, .H = 1, .F = 4, .V = 3});
  const Tensor o = linear_attention(ctx, in, {})[0].value();
  in.slope = Tensor::zeros({1}, DType::f64, *stream);
  const Tensor of_zero_slope = linear_attention(ctx, in, {})[0].value();
  EXPECT_EQ(std::memcmp(o.raw(), of_zero_slope.raw(), o.bytes()), 0);
  const double *const q = in.q.value().data<double>(), *const k = in.k.value().data<double>(),
                      *const v = in.v.value().data<double>();
  double sums[4][3] = {};
  for (int64_t t = 0; t < 150; ++t)
    for (int64_t c = 0; c < 3; ++c) {
      double expected = 0;
      for (int64_t f = 0; f < 4; ++f) {
        sums[f][c] += k[t * 4 + f] * v[t * 3 + c];
        expected += q[t * 4 + f] * sums[f][c];
      }
      EXPECT_TRUE(std::abs(o.data<double>()[t * 3 + c] - expected) <= 1e-11) << t;
    }
  // Equal keys and queries of length one, values of one: tokens are counted.
  for (const Variable& x : {in.q, in.k}) std::fill_n(x.value().data<double>(), 600, 0.5);
  std::fill_n(in.v.value().data<double>(), 450, 1.0);
  const Tensor counts = linear_attention(ctx, in, {})[0].value();
  for (int64_t i = 0; i < 450; ++i) EXPECT_EQ(counts.data<double>()[i], static_cast<double>(i / 3 + 1));
}

TEST_F(LinearAttentionTest, RefusesAStateOfAnotherWidth) {
  LinearInputs in = inputs({.B = 1, .T = 2, .H = 1, .F = 2, .V = 2, .normalise = true, .state = true});
  EXPECT_THROW(linear_attention(ctx, in, {.normalise = false}), ShapeError);
  in.norm_q = in.q;
  EXPECT_THROW(linear_attention(ctx, in, {.normalise = true}), ShapeError);
}

TEST_F(LinearAttentionTest, RefusesTwoKindsOfDecay) {
  LinearInputs in = inputs({.B = 1, .T = 2, .H = 1, .F = 2, .V = 2, .decay = true});
  in.log_decay = Tensor::zeros({1, 2, 1}, DType::f64, *stream);
  EXPECT_THROW(linear_attention(ctx, in, {}), ShapeError);
  in.slope = Tensor();
  in.token_eps = in.log_decay;
  EXPECT_THROW(linear_attention(ctx, in, {}), ShapeError);
}

}  // namespace
}  // namespace headway
