// What follows from the definition of linear attention: limits, identities of its gradients, independence of
// where a sequence is cut, and long sequences in float32.
#include <algorithm>
#include <cstring>

#include "core/max_or_nan.h"
#include "tests/autograd/linear_attention_test.h"

namespace headway {
namespace {

/// By the root of the squares' sum, relative to that of the expected numbers, or of numbers of `typical` size
/// where a score of few terms happens to cancel.
void expect_near_numbers(const std::vector<double>& actual, const std::vector<double>& expected, double limit,
                         double typical = 0) {
  ASSERT_EQ(actual.size(), expected.size());
  double squares = 0, magnitude = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    squares += std::pow(actual[i] - expected[i], 2);
    magnitude += std::pow(expected[i], 2);
  }
  magnitude = std::max(magnitude, std::pow(typical, 2) * static_cast<double>(expected.size()));
  EXPECT_TRUE(std::sqrt(squares) <= limit * std::sqrt(magnitude))
      << std::sqrt(squares) << " of " << std::sqrt(magnitude);
}

class LinearAttentionIdentities : public LinearAttentionTest {
 protected:
  struct Gradients {
    Tensor q, k, v, state;
  };
  /// For gradients of the output and, where it is defined, of the last state.
  Gradients gradients(const LinearInputs& in, const LinearAttention::Config& config, const Tensor& dy,
                      const Tensor& dstate) {
    const auto leaf_of = [](const Variable& x) {
      return x.defined() ? Variable::leaf(x.value()) : Variable();
    };
    const LinearInputs own{.q = leaf_of(in.q),
                           .k = leaf_of(in.k),
                           .v = leaf_of(in.v),
                           .state = leaf_of(in.state),
                           .slope = in.slope};
    ctx.recording = true;
    const auto [o, state] = linear_attention(ctx, own, config);
    std::vector<Variable> roots{o};
    std::vector<Tensor> seeds{dy};
    if (dstate) roots.push_back(state), seeds.push_back(dstate);
    backward(ctx, roots, seeds, MicroStep::last);
    ctx.recording = false;
    return {own.q.grad(), own.k.grad(), own.v.grad(), own.state.defined() ? own.state.grad() : Tensor()};
  }
  static double dot(const Tensor& x, const Tensor& y) {
    double sum = 0;
    for (int64_t i = 0; i < x.numel(); ++i) sum += x.data<double>()[i] * y.data<double>()[i];
    return sum;
  }
  /// sum over i of |x_i y_i|
  static double terms(const Tensor& x, const Tensor& y) {
    double sum = 0;
    for (int64_t i = 0; i < x.numel(); ++i) sum += std::abs(x.data<double>()[i] * y.data<double>()[i]);
    return sum;
  }
  /// Row (b, t, h) of a [B,T,H,width] tensor.
  static double* row(const Tensor& x, int64_t b, int64_t t, int64_t h) {
    return x.data<double>() + ((b * x.size(1) + t) * x.size(2) + h) * x.size(3);
  }
  void expect_near(const Tensor& actual, const Tensor& expected, double limit, const char* name) {
    SCOPED_TRACE(name);
    ASSERT_EQ(actual.shape(), expected.shape());
    expect_near_numbers(to_doubles(actual, *stream), to_doubles(expected, *stream), limit);
  }
};

class LinearAttentionRecurrence : public LinearAttentionTest {
 protected:
  static constexpr int64_t H = 6;
  const std::vector<float> slopes{0, 1e-5f, 0.0039f, 0.5f, 0.92f, 8};
  std::vector<float> q, k, v;

  struct Results {
    std::vector<double> o, state;
  };
  template <class T>
  Results run(int64_t length, int64_t width) {
    const auto variable = [&](const std::vector<float>& x) {
      return Variable(Tensor::from<T>(std::vector<T>(x.begin(), x.end()), {1, length, H, width}, *stream));
    };
    LinearInputs in{.q = variable(q), .k = variable(k), .v = variable(v)};
    in.slope = Tensor::from<T>(std::vector<T>(slopes.begin(), slopes.end()), {H}, *stream);
    const auto [o, state] = linear_attention(ctx, in, {});
    return {to_doubles(o.value(), *stream), to_doubles(state.value(), *stream)};
  }
  /// Head h of outputs or states, of `count` rows of all heads.
  static std::vector<double> head_of(const std::vector<double>& x, int64_t h, int64_t count, int64_t size) {
    std::vector<double> head;
    for (int64_t row = 0; row < count; ++row)
      head.insert(head.end(), x.begin() + (row * H + h) * size, x.begin() + (row * H + h + 1) * size);
    return head;
  }
};

// Both forms, the recurrence of every token and the sum over earlier ones of a few, against float64 and
// float32.
TEST_F(LinearAttentionRecurrence, EveryLengthAndSlope) {
  const std::vector<std::pair<int64_t, int64_t>> sizes{{1, 32},   {63, 32},   {64, 32}, {65, 32},  {500, 32},
                                                       {913, 32}, {2048, 32}, {65, 64}, {200, 128}};
  for (const auto& [length, width] : sizes) {
    const double scale = 1 / std::sqrt(static_cast<double>(width));
    q = random_values<float>(length * H * width, seed, 1, scale);
    k = random_values<float>(length * H * width, seed, 2, scale);
    v = random_values<float>(length * H * width, seed, 3);
    const Results in_double = run<double>(length, width), in_float = run<float>(length, width);
    const auto at = [&, width = width](const std::vector<float>& x, int64_t t, int64_t h, int64_t i) {
      return static_cast<double>(x[(t * H + h) * width + i]);
    };
    for (int64_t h = 0; h < H; ++h) {
      const auto slope = static_cast<double>(slopes[h]);
      SCOPED_TRACE("tokens " + std::to_string(length) + " width " + std::to_string(width) + " slope " +
                   std::to_string(slope));
      std::vector<double> S(static_cast<size_t>(width * width)), o(static_cast<size_t>(length * width));
      for (int64_t t = 0; t < length; ++t)
        for (int64_t f = 0; f < width; ++f) {
          const double decay = std::exp(-slope), key = at(k, t, h, f), query = at(q, t, h, f);
          for (int64_t c = 0; c < width; ++c) {
            double& s = S[f * width + c];
            s = decay * s + key * at(v, t, h, c);
            o[t * width + c] += s * query;
          }
        }
      expect_near_numbers(head_of(in_double.o, h, length, width), o, 1e-12, scale);
      expect_near_numbers(head_of(in_double.state, h, 1, width * width), S, 1e-12, scale);
      expect_near_numbers(head_of(in_float.o, h, length, width), o, 1e-5, scale);
      expect_near_numbers(head_of(in_float.state, h, 1, width * width), S, 1e-5, scale);
      for (const int64_t t : {int64_t{0}, length / 2, length - 1}) {
        std::vector<double> sum(static_cast<size_t>(width));
        for (int64_t j = 0; j <= t; ++j) {
          double score = 0;
          for (int64_t f = 0; f < width; ++f) score += at(q, t, h, f) * at(k, j, h, f);
          score *= std::exp(-slope * static_cast<double>(t - j));
          for (int64_t c = 0; c < width; ++c) sum[c] += score * at(v, j, h, c);
        }
        const double* const row = in_double.o.data() + (t * H + h) * width;
        expect_near_numbers({row, row + width}, sum, 1e-11, scale);
      }
    }
  }
}

// The gradients of the quadratic form, written out, with a state before and a gradient of the one after.
TEST_F(LinearAttentionIdentities, GradientsAreThoseOfTheQuadraticForm) {
  for (const bool normalise : {false, true}) {
    SCOPED_TRACE(normalise ? "normalised" : "plain");
    const int64_t T = 250, H = 2, F = 5, V = 3, columns = V + (normalise ? 1 : 0);
    const LinearInputs in = inputs(
        {.B = 1, .T = T, .H = H, .F = F, .V = V, .decay = true, .normalise = normalise, .state = true});
    const LinearAttention::Config config{.normalise = normalise, .eps = normalise ? 1e-3 : 0};
    const Tensor dy = leaf({1, T, H, V}, false).value(),
                 dstate = leaf(in.state.value().shape(), false).value();
    const Gradients actual = gradients(in, config, dy, dstate);
    const auto zeros = [&](const Tensor& like) { return Tensor::zeros(like.shape(), DType::f64, *stream); };
    const Gradients expected{zeros(actual.q), zeros(actual.k), zeros(actual.v), zeros(actual.state)};
    for (int64_t h = 0; h < H; ++h) {
      const double slope = in.slope.data<double>()[h];
      const double* const S = in.state.value().data<double>() + h * F * columns;
      const double* const R = dstate.data<double>() + h * F * columns;
      double* const dS = expected.state.data<double>() + h * F * columns;
      const auto left = [&](int64_t steps) { return std::exp(-slope * static_cast<double>(steps)); };
      const auto q = [&](int64_t t) { return row(in.q.value(), 0, t, h); };
      const auto k = [&](int64_t t) { return row(in.k.value(), 0, t, h); };
      // The normaliser is one more column of values, all ones.
      const auto v = [&](int64_t t, int64_t c) { return c < V ? row(in.v.value(), 0, t, h)[c] : 1; };
      std::vector<double> dn(static_cast<size_t>(T * columns));
      for (int64_t t = 0; t < T; ++t) {
        std::vector<double> n(static_cast<size_t>(columns));
        for (int64_t f = 0; f < F; ++f)
          for (int64_t c = 0; c < columns; ++c) {
            double memory = left(t + 1) * S[f * columns + c];
            for (int64_t j = 0; j <= t; ++j) memory += left(t - j) * k(j)[f] * v(j, c);
            n[c] += q(t)[f] * memory;
          }
        const double denominator = normalise ? n[V] + config.eps : 1;
        double along = 0;
        for (int64_t c = 0; c < V; ++c) {
          dn[t * columns + c] = row(dy, 0, t, h)[c] / denominator;
          along += dn[t * columns + c] * n[c] / denominator;
        }
        if (normalise) dn[t * columns + V] = -along;
      }
      for (int64_t i = 0; i < T; ++i)
        for (int64_t c = 0; c < columns; ++c) {
          const double g = dn[i * columns + c];
          for (int64_t f = 0; f < F; ++f) {
            row(expected.q, 0, i, h)[f] += left(i + 1) * S[f * columns + c] * g;
            dS[f * columns + c] += left(i + 1) * q(i)[f] * g;
            row(expected.k, 0, i, h)[f] += left(T - 1 - i) * R[f * columns + c] * v(i, c);
            if (c < V) row(expected.v, 0, i, h)[c] += left(T - 1 - i) * R[f * columns + c] * k(i)[f];
          }
          for (int64_t j = 0; j <= i; ++j)
            for (int64_t f = 0; f < F; ++f) {
              row(expected.q, 0, i, h)[f] += left(i - j) * g * v(j, c) * k(j)[f];
              row(expected.k, 0, j, h)[f] += left(i - j) * g * v(j, c) * q(i)[f];
              if (c < V) row(expected.v, 0, j, h)[c] += left(i - j) * g * q(i)[f] * k(j)[f];
            }
        }
      for (int64_t i = 0; i < F * columns; ++i) dS[i] += left(T) * R[i];
    }
    expect_near(actual.q, expected.q, 1e-11, "dq");
    expect_near(actual.k, expected.k, 1e-11, "dk");
    expect_near(actual.v, expected.v, 1e-11, "dv");
    expect_near(actual.state, expected.state, 1e-11, "dstate");
  }
}

// With g = -slope: dL/dg = sum_t (t+1) (q_t.dq_t - k_t.dk_t) + T <S_out, dS_out>. The slope itself is a
// constant here, so the left side is a difference quotient.
TEST_F(LinearAttentionIdentities, WhatTheDecayWouldGetFollowsFromTheOtherGradients) {
  const int64_t T = 150;
  LinearInputs in = inputs({.B = 2, .T = T, .H = 1, .F = 4, .V = 3, .decay = true, .state = true});
  const Tensor dy = leaf(in.v.shape(), false).value(), dstate = leaf(in.state.shape(), false).value();
  const double slope = in.slope.data<double>()[0];
  const auto value_at = [&](double s) {
    in.slope.data<double>()[0] = s;
    const auto [o, state] = linear_attention(ctx, in, {});
    in.slope.data<double>()[0] = slope;
    return dot(o.value(), dy) + dot(state.value(), dstate);
  };
  const double h = 1e-4;
  const double quotient = -(value_at(slope - 2 * h) - 8 * value_at(slope - h) + 8 * value_at(slope + h) -
                            value_at(slope + 2 * h)) /
                          (12 * h);
  const Gradients d = gradients(in, {}, dy, dstate);
  const Tensor last = linear_attention(ctx, in, {})[1].value();
  double expected = static_cast<double>(T) * dot(last, dstate),
         size = static_cast<double>(T) * terms(last, dstate);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t t = 0; t < T; ++t)
      for (int64_t f = 0; f < 4; ++f) {
        const double query = row(in.q.value(), b, t, 0)[f] * row(d.q, b, t, 0)[f],
                     key = row(in.k.value(), b, t, 0)[f] * row(d.k, b, t, 0)[f];
        expected += static_cast<double>(t + 1) * (query - key);
        size += static_cast<double>(t + 1) * (std::abs(query) + std::abs(key));
      }
  EXPECT_TRUE(std::abs(quotient - expected) <= 1e-10 * size) << quotient << " and " << expected;
}

// A cut anywhere, with the state between the parts, leaves every gradient as it is.
TEST_F(LinearAttentionIdentities, GradientsCrossACut) {
  for (const bool normalise : {false, true})
    for (const int64_t cut : {1, 64, 70, 149}) {
      SCOPED_TRACE("cut " + std::to_string(cut) + (normalise ? " normalised" : ""));
      const int64_t T = 150;
      const LinearInputs in = inputs(
          {.B = 1, .T = T, .H = 2, .F = 4, .V = 3, .decay = true, .normalise = normalise, .state = true});
      const LinearAttention::Config config{.normalise = normalise, .eps = 1e-3};
      const Tensor dy = leaf(in.v.shape(), false).value(), dstate = leaf(in.state.shape(), false).value();
      const Gradients whole = gradients(in, config, dy, dstate);
      const auto part = [&](const Variable& x, int64_t begin, int64_t end) {
        return Variable::leaf(x.value().slice(1, begin, end));
      };
      const auto inputs_of = [&](int64_t begin, int64_t end, const Variable& state) {
        return LinearInputs{.q = part(in.q, begin, end),
                            .k = part(in.k, begin, end),
                            .v = part(in.v, begin, end),
                            .state = state,
                            .slope = in.slope};
      };
      ctx.recording = true;
      const LinearInputs first = inputs_of(0, cut, Variable::leaf(in.state.value()));
      const auto [o1, between] = linear_attention(ctx, first, config);
      const LinearInputs second = inputs_of(cut, T, between);
      const auto [o2, last] = linear_attention(ctx, second, config);
      const std::vector<Variable> roots{o1, o2, last};
      const std::vector<Tensor> seeds{dy.slice(1, 0, cut), dy.slice(1, cut, T), dstate};
      backward(ctx, roots, seeds, MicroStep::last);
      ctx.recording = false;
      const auto expect_part = [&](const LinearInputs& x, int64_t begin, int64_t end) {
        expect_near(x.q.grad(), whole.q.slice(1, begin, end), 1e-11, "dq");
        expect_near(x.k.grad(), whole.k.slice(1, begin, end), 1e-11, "dk");
        expect_near(x.v.grad(), whole.v.slice(1, begin, end), 1e-11, "dv");
      };
      expect_part(first, 0, cut);
      expect_part(second, cut, T);
      expect_near(first.state.grad(), whole.state, 1e-11, "dstate");
    }
}

// Over several chunks: a token changes no bit of an earlier output, and a gradient of an output none of the
// gradients of later keys and values or of other queries.
TEST_F(LinearAttentionIdentities, NothingReachesBackInTimeNorItsGradientForward) {
  const int64_t T = 150, F = 4, V = 3;
  for (const bool normalise : {false, true}) {
    const LinearInputs in =
        inputs({.B = 1, .T = T, .H = 1, .F = F, .V = V, .decay = true, .normalise = normalise});
    const LinearAttention::Config config{.normalise = normalise, .eps = 1e-3};
    const Tensor dy = leaf(in.v.shape(), false).value();
    const Tensor before = linear_attention(ctx, in, config)[0].value();
    const Gradients d = gradients(in, config, dy, Tensor());
    const auto equal = [](const Tensor& a, const Tensor& b, int64_t t) {
      return std::memcmp(row(a, 0, t, 0), row(b, 0, t, 0), static_cast<size_t>(a.size(3)) * sizeof(double)) ==
             0;
    };
    for (const int64_t changed : {0, 40, 63, 64, 149}) {
      SCOPED_TRACE("token " + std::to_string(changed));
      LinearInputs other = in;
      for (Variable* const x : {&other.q, &other.k, &other.v}) {
        *x = Variable(x->value().clone(*stream));
        row(x->value(), 0, changed, 0)[0] += 1;
      }
      const Tensor after = linear_attention(ctx, other, config)[0].value();
      for (int64_t t = 0; t <= changed; ++t) EXPECT_EQ(equal(before, after, t), t < changed) << t;

      const Tensor changed_dy = dy.clone(*stream);
      row(changed_dy, 0, changed, 0)[0] += 1;
      const Gradients e = gradients(in, config, changed_dy, Tensor());
      for (int64_t t = 0; t < T; ++t) {
        EXPECT_EQ(equal(d.q, e.q, t), t != changed) << "query " << t;
        EXPECT_EQ(equal(d.k, e.k, t), t > changed) << "key " << t;
        EXPECT_EQ(equal(d.v, e.v, t), t > changed) << "value " << t;
      }
    }
  }
}

// n / (n + eps) with n the sum of a row's weights, which is what one and the same value comes out as.
TEST_F(LinearAttentionIdentities, WeightsOfARowSumToTheShareOfEps) {
  const int64_t T = 130, F = 4, V = 3;
  for (const double eps : {0.0, 0.3}) {
    const LinearInputs in = inputs({.B = 1, .T = T, .H = 1, .F = F, .V = V, .normalise = true});
    for (int64_t t = 1; t < T; ++t) std::copy_n(row(in.v.value(), 0, 0, 0), V, row(in.v.value(), 0, t, 0));
    const Tensor o = linear_attention(ctx, in, {.normalise = true, .eps = eps})[0].value();
    std::vector<double> sum_of_keys(F);
    for (int64_t t = 0; t < T; ++t) {
      double n = 0;
      for (int64_t f = 0; f < F; ++f)
        n += row(in.q.value(), 0, t, 0)[f] * (sum_of_keys[f] += row(in.k.value(), 0, t, 0)[f]);
      for (int64_t c = 0; c < V; ++c) {
        const double expected = row(in.v.value(), 0, 0, 0)[c] * n / (n + eps);
        EXPECT_TRUE(std::abs(row(o, 0, t, 0)[c] - expected) <= 1e-13 * std::abs(expected)) << t;
      }
    }
  }
}

// A value's gradient under equal gradients of all outputs is how much weight it had in all of them.
TEST_F(LinearAttentionIdentities, UnitGradientsGiveAValueTheSumOfItsWeights) {
  const int64_t T = 130, F = 4, V = 3;
  const LinearInputs in = inputs({.B = 1, .T = T, .H = 1, .F = F, .V = V, .normalise = true});
  const Tensor ones =
      Tensor::from<double>(std::vector<double>(static_cast<size_t>(T * V), 1.0), {1, T, 1, V}, *stream);
  const Gradients d = gradients(in, {.normalise = true}, ones, Tensor());
  std::vector<double> expected(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; ++t) {
    std::vector<double> weights(static_cast<size_t>(t + 1));
    double sum = 0;
    for (int64_t j = 0; j <= t; ++j) {
      for (int64_t f = 0; f < F; ++f)
        weights[j] += row(in.q.value(), 0, t, 0)[f] * row(in.k.value(), 0, j, 0)[f];
      sum += weights[j];
    }
    for (int64_t j = 0; j <= t; ++j) expected[j] += weights[j] / sum;
  }
  for (int64_t j = 0; j < T; ++j)
    for (int64_t c = 0; c < V; ++c)
      EXPECT_TRUE(std::abs(row(d.v, 0, j, 0)[c] - expected[j]) <= 1e-13 * expected[j]) << j;
}

// With a normaliser a factor of one query's features cancels, and one of all keys' does; one of a single
// key's does not. So gradients have no part along the former.
TEST_F(LinearAttentionIdentities, FactorsOfAQueryOrOfAllKeysCancel) {
  const int64_t T = 130, F = 4;
  const LinearInputs in = inputs({.B = 1, .T = T, .H = 1, .F = F, .V = 3, .normalise = true});
  const auto scaled = [&](const Variable& x, const auto& factor) {
    const Tensor y = x.value().clone(*stream);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t f = 0; f < F; ++f) row(y, 0, t, 0)[f] *= factor(t);
    return Variable(y);
  };
  const auto run = [&](const Variable& q, const Variable& k) {
    return linear_attention(ctx, {.q = q, .k = k, .v = in.v}, {.normalise = true})[0].value();
  };
  const Tensor o = run(in.q, in.k);
  const auto per_token = [](int64_t t) { return std::exp(std::sin(static_cast<double>(t))); };
  expect_near(run(scaled(in.q, per_token), in.k), o, 1e-13, "queries");
  expect_near(run(in.q, scaled(in.k, [](int64_t) { return 7.0; })), o, 1e-13, "keys");
  const Tensor other = run(in.q, scaled(in.k, per_token));
  double largest = 0;
  for (int64_t i = 0; i < o.numel(); ++i)
    largest = std::max(largest, std::abs(other.data<double>()[i] - o.data<double>()[i]));
  EXPECT_GT(largest, 1e-3);

  const Gradients d = gradients(in, {.normalise = true}, leaf(in.v.shape(), false).value(), Tensor());
  for (int64_t t = 0; t < T; ++t) {
    double along = 0, size = 0;
    for (int64_t f = 0; f < F; ++f) {
      const double term = row(in.q.value(), 0, t, 0)[f] * row(d.q, 0, t, 0)[f];
      along += term, size += std::abs(term);
    }
    EXPECT_TRUE(std::abs(along) <= 1e-11 * (size + 1e-3)) << t;
  }
  EXPECT_TRUE(std::abs(dot(in.k.value(), d.k)) <= 1e-12 * terms(in.k.value(), d.k));
}

// One early key outweighs each of 65,535 later ones by 10,000: their sum, which by the end is far larger, is
// not lost in float32.
TEST_F(LinearAttentionIdentities, ADenominatorGrowsOverManyTokensInFloat) {
  const int64_t T = 65536, F = 4, V = 2;
  const auto run = [&]<class S>(S) {
    std::vector<S> q(static_cast<size_t>(T * F)), k(q.size());
    const auto noise = random_values<float>(T * F, seed, 2000),
               values = random_values<float>(T * V, seed, 2001);
    for (size_t i = 0; i < q.size(); ++i) {
      const float size = std::abs(noise[i]);
      q[i] = static_cast<S>(i % F == 0 ? 1.0f : size);
      k[i] = static_cast<S>(i == 0 ? 1.0f : i < F ? 0.0f : 1e-4f * size);
    }
    const auto variable = [&](const std::vector<S>& x, int64_t width) {
      return Variable(Tensor::from<S>(x, {1, T, 1, width}, *stream));
    };
    const auto [o, state] = linear_attention(
        ctx, {.q = variable(q, F), .k = variable(k, F), .v = variable({values.begin(), values.end()}, V)},
        {.normalise = true, .eps = 1e-12});
    std::vector<double> results;
    for (const Tensor& tensor : {o.value(), state.value()})
      for (const S value : tensor.to_vector<S>(*stream)) results.push_back(static_cast<double>(value));
    return results;
  };
  const std::vector<double> actual = run(float{}), exact = run(double{});
  double largest = 0;
  for (int64_t i = 0; i < T * V; ++i) largest = max_or_nan(largest, std::abs(actual[i] - exact[i]));
  // Values are of size one; a sum of 65,536 terms of one sign drifts by some 256 roundings.
  EXPECT_TRUE(largest <= 256 * 1.2e-7) << largest;
  for (int64_t f = 0; f < F; ++f) {
    const size_t denominator = static_cast<size_t>(T * V + f * (V + 1) + V);
    EXPECT_GT(exact[denominator], 4);
    EXPECT_TRUE(std::abs(actual[denominator] - exact[denominator]) <= 256 * 1.2e-7 * exact[denominator]);
  }
}

}  // namespace
}  // namespace headway
