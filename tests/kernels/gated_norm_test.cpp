#include "kernels/ops/gated_norm.h"

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

constexpr double kEps = 1e-6;

class GatedNormTest : public KernelTest {
 protected:
  struct Case {
    bool weighted, gated;
    GateActivation activation;
  };
  static constexpr Case kCases[] = {{false, false, GateActivation::identity},
                                    {true, false, GateActivation::identity},
                                    {false, true, GateActivation::identity},
                                    {true, true, GateActivation::identity},
                                    {true, true, GateActivation::sigmoid}};
};

TEST_F(GatedNormTest, MatchesThePlainLoop) {
  // Wide enough that the two terms of dx do not cancel: over one number the norm is its sign.
  const Shape sizes[] = {{1, 9}, {7, 12}, {129, 33}, {70, 256}};
  for (const Shape& size : sizes)
    for (const Case& c : kCases) {
      const int64_t n = size[0], d = size[1];
      SCOPED_TRACE(size.to_string() + (c.weighted ? " weighted" : "") + (c.gated ? " gated" : ""));
      const auto x = random(n * d, 3), dy = random(n * d), weight = random(d), gate = random(n * d, 2);
      const Tensor x_tensor = tensor(x, {n, d}), dy_tensor = tensor(dy, {n, d}),
                   weight_tensor = c.weighted ? tensor(weight, {d}) : Tensor(),
                   gate_tensor = c.gated ? tensor(gate, {n, d}) : Tensor();
      const Output y({n, d}), inverse({n}), dx({n, d}), dgate({n, d}), dweight({d});
      launch(GatedNormForward<float>{.activation = c.activation,
                                     .eps = kEps,
                                     .x = x_tensor.view<const float, 2>("x"),
                                     .weight = weight_tensor.optional_view<const float, 1>("weight"),
                                     .gate = gate_tensor.optional_view<const float, 2>("gate"),
                                     .y = y.tensor().view<float, 2>("y"),
                                     .inverse = inverse.tensor().view<float, 1>("inverse")},
             *stream);
      // Twice, so that dweight is overwritten once and added to once.
      for (const bool accumulate : {false, true})
        launch(GatedNormBackward<float>{.activation = c.activation,
                                        .dy = dy_tensor.view<const float, 2>("dy"),
                                        .x = x_tensor.view<const float, 2>("x"),
                                        .weight = weight_tensor.optional_view<const float, 1>("weight"),
                                        .gate = gate_tensor.optional_view<const float, 2>("gate"),
                                        .inverse = inverse.tensor().view<const float, 1>("inverse"),
                                        .dx = dx.tensor().view<float, 2>("dx"),
                                        .dgate = dgate.tensor().view<float, 2>("dgate"),
                                        .dweight = dweight.tensor().view<float, 1>("dweight"),
                                        .accumulate_weight = accumulate},
               *stream);
      std::vector<const Output*> outputs{&y, &inverse, &dx};
      if (c.gated) outputs.push_back(&dgate);
      if (c.weighted) outputs.push_back(&dweight);
      expect_close(outputs, [&]<class S>(S) {
        std::vector<S> ys(n * d), inverses(n), dxs(n * d), dgates(n * d), dweights(d);
        for (int64_t i = 0; i < n; ++i) {
          S squares = 0, along = 0;
          for (int64_t j = 0; j < d; ++j) squares += S(x[i * d + j]) * S(x[i * d + j]);
          const S inv = 1 / std::sqrt(squares / S(d) + S(kEps));
          inverses[i] = inv;
          std::vector<S> g(d);
          for (int64_t j = 0; j < d; ++j) {
            const int64_t e = i * d + j;
            const S u = S(gate[e]), s = 1 / (1 + std::exp(-u)), w = c.weighted ? S(weight[j]) : S(1);
            const bool sigmoid = c.activation == GateActivation::sigmoid;
            const S a = !c.gated ? S(1) : sigmoid ? s : u, slope = sigmoid ? s * (1 - s) : S(1);
            const S normed = S(x[e]) * inv;
            ys[e] = normed * w * a;
            dgates[e] = S(dy[e]) * normed * w * slope;
            dweights[j] += 2 * S(dy[e]) * normed * a;
            g[j] = S(dy[e]) * w * a;
            along += g[j] * normed;
          }
          for (int64_t j = 0; j < d; ++j)
            dxs[i * d + j] = inv * (g[j] - S(x[i * d + j]) * inv * along / S(d));
        }
        Values<S> values{ys, inverses, dxs};
        if (c.gated) values.push_back(dgates);
        if (c.weighted) values.push_back(dweights);
        return values;
      });
    }
}

TEST_F(GatedNormTest, EqualBitsForAnyNumberOfThreads) {
  const int64_t n = 700, d = 48;
  const Tensor x = tensor(random(n * d), {n, d}), dy = tensor(random(n * d), {n, d}),
               gate = tensor(random(n * d), {n, d}), weight = tensor(random(d), {d});
  expect_equal_for_any_number_of_threads([&] {
    const auto empty = [](const Shape& shape) { return Tensor::empty(shape, DType::f32, Device{}); };
    const std::vector<Tensor> out{empty({n, d}), empty({n}), empty({n, d}), empty({n, d}), empty({d})};
    launch(GatedNormForward<float>{.eps = kEps,
                                   .x = x.view<const float, 2>("x"),
                                   .weight = weight.view<const float, 1>("weight"),
                                   .gate = gate.view<const float, 2>("gate"),
                                   .y = out[0].view<float, 2>("y"),
                                   .inverse = out[1].view<float, 1>("inverse")},
           *stream);
    launch(GatedNormBackward<float>{.dy = dy.view<const float, 2>("dy"),
                                    .x = x.view<const float, 2>("x"),
                                    .weight = weight.view<const float, 1>("weight"),
                                    .gate = gate.view<const float, 2>("gate"),
                                    .inverse = out[1].view<const float, 1>("inverse"),
                                    .dx = out[2].view<float, 2>("dx"),
                                    .dgate = out[3].view<float, 2>("dgate"),
                                    .dweight = out[4].view<float, 1>("dweight")},
           *stream);
    return out;
  });
}

}  // namespace
}  // namespace headway
