#include "kernels/ops/norm.h"

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

constexpr double kEps = 1e-5;

class NormTest : public KernelTest {
 protected:
  struct Inputs {
    NormKind kind;
    Tensor x, weight, bias, dy;
  };
  struct Results {
    Tensor y, mean, inverse, dx, dweight, dbias;
  };
  // Forward, then backward twice, so that dweight and dbias are overwritten once and added to once.
  void run(const Inputs& in, const Results& out) {
    launch(NormForward<float>{.kind = in.kind,
                              .eps = kEps,
                              .x = in.x.view<const float, 2>("x"),
                              .weight = in.weight.view<const float, 1>("weight"),
                              .bias = in.bias.optional_view<const float, 1>("bias"),
                              .y = out.y.view<float, 2>("y"),
                              .mean = out.mean.view<float, 1>("mean"),
                              .inverse = out.inverse.view<float, 1>("inverse")},
           *stream);
    for (const bool accumulate : {false, true})
      launch(NormBackward<float>{.kind = in.kind,
                                 .dy = in.dy.view<const float, 2>("dy"),
                                 .x = in.x.view<const float, 2>("x"),
                                 .weight = in.weight.view<const float, 1>("weight"),
                                 .mean = out.mean.view<const float, 1>("mean"),
                                 .inverse = out.inverse.view<const float, 1>("inverse"),
                                 .dx = out.dx.view<float, 2>("dx"),
                                 .dweight = out.dweight.view<float, 1>("dweight"),
                                 .dbias = out.dbias.view<float, 1>("dbias"),
                                 .accumulate_weight = accumulate,
                                 .accumulate_bias = accumulate},
             *stream);
  }
};

TEST_F(NormTest, MatchesThePlainLoop) {
  const Shape sizes[] = {{1, 1}, {1, 64}, {7, 5}, {129, 33}, {70, 768}, {2049, 24}};
  for (const Shape& size : sizes)
    for (const NormKind kind : {NormKind::rms, NormKind::layer})
      for (const bool biased : {false, true}) {
        if (biased && kind == NormKind::rms) continue;
        SCOPED_TRACE(size.to_string() + (kind == NormKind::rms ? " rms" : biased ? " biased" : " layer"));
        const int64_t n = size[0], d = size[1];
        auto x = random(n * d, 3);
        if (kind == NormKind::layer)
          for (float& value : x) value += 5;
        const auto dy = random(n * d), weight = random(d);
        const auto bias = biased ? random(d) : std::vector<float>(static_cast<size_t>(d));
        const Output y({n, d}), mean({n}), inverse({n}), dx({n, d}), dweight({d}), dbias({d});
        run({kind, tensor(x, {n, d}), tensor(weight, {d}), biased ? tensor(bias, {d}) : Tensor(),
             tensor(dy, {n, d})},
            {y.tensor(), mean.tensor(), inverse.tensor(), dx.tensor(), dweight.tensor(), dbias.tensor()});
        std::vector<const Output*> outputs{&y, &inverse, &dx, &dweight, &dbias};
        if (kind == NormKind::layer) outputs.push_back(&mean);
        expect_close(outputs, [&]<class S>(S) {
          std::vector<S> ys(n * d), means(n), inverses(n), dxs(n * d), dweights(d), dbiases(d);
          for (int64_t i = 0; i < n; ++i) {
            const auto at = [&](const std::vector<float>& values, int64_t j) { return S(values[i * d + j]); };
            S sum = 0, squares = 0, mean_g = 0, mean_product = 0;
            for (int64_t j = 0; j < d; ++j) sum += at(x, j);
            const S m = kind == NormKind::layer ? sum / S(d) : S(0);
            for (int64_t j = 0; j < d; ++j) squares += (at(x, j) - m) * (at(x, j) - m);
            const S r = 1 / std::sqrt(squares / S(d) + S(kEps));
            means[i] = m, inverses[i] = r;
            for (int64_t j = 0; j < d; ++j) {
              const S xhat = (at(x, j) - m) * r, g = at(dy, j) * S(weight[j]);
              ys[i * d + j] = S(weight[j]) * xhat + S(bias[j]);
              if (kind == NormKind::layer) mean_g += g / S(d);
              mean_product += g * xhat / S(d);
              dweights[j] += 2 * at(dy, j) * xhat, dbiases[j] += 2 * at(dy, j);
            }
            for (int64_t j = 0; j < d; ++j)
              dxs[i * d + j] = r * (at(dy, j) * S(weight[j]) - mean_g - (at(x, j) - m) * r * mean_product);
          }
          Values<S> values{ys, inverses, dxs, dweights, dbiases};
          if (kind == NormKind::layer) values.push_back(means);
          return values;
        });
      }
}

TEST_F(NormTest, EqualBitsForAnyNumberOfThreads) {
  const Tensor x = tensor(random(900 * 40), {900, 40}), dy = tensor(random(900 * 40), {900, 40}),
               weight = tensor(random(40), {40});
  expect_equal_for_any_number_of_threads([&] {
    const auto empty = [](const Shape& shape) { return Tensor::empty(shape, DType::f32, Device{}); };
    const Results out{empty({900, 40}), empty({900}), empty({900}),
                      empty({900, 40}), empty({40}),  empty({40})};
    run({NormKind::layer, x, weight, Tensor(), dy}, out);
    return std::vector{out.y, out.mean, out.inverse, out.dx, out.dweight, out.dbias};
  });
}

}  // namespace
}  // namespace headway
