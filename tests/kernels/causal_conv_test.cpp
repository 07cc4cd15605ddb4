#include "kernels/ops/causal_conv.h"

#include <cmath>

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

struct Case {
  int64_t B, T, C, K;
  bool silu, history;
};

class CausalConvTest : public KernelTest {
 protected:
  struct Inputs {
    Tensor x, weight, history, dy;
  };
  void forward(const Case& c, const Inputs& in, const Tensor& y) {
    launch(CausalConvForward<float>{.in = views(c, in), .y = y.view<float, 3>("y")}, *stream);
  }
  void backward(const Case& c, const Inputs& in, const Tensor& dx, const Tensor& dhistory,
                const Tensor& dweight, bool accumulate) {
    launch(CausalConvBackward<float>{.in = views(c, in),
                                     .dy = in.dy.view<const float, 3>("dy"),
                                     .dx = dx.view<float, 3>("dx"),
                                     .dhistory = dhistory.optional_view<float, 3>("dhistory"),
                                     .dweight = dweight.view<float, 2>("dweight"),
                                     .accumulate_weight = accumulate},
           *stream);
  }

 private:
  static CausalConvInputs<float> views(const Case& c, const Inputs& in) {
    return {.x = in.x.view<const float, 3>("x"),
            .history = in.history.optional_view<const float, 3>("history"),
            .weight = in.weight.view<const float, 2>("weight"),
            .silu = c.silu};
  }
};

TEST_F(CausalConvTest, MatchesThePlainLoop) {
  for (const Case& c : {Case{1, 1, 1, 1, false, false},
                        {2, 5, 3, 4, false, false},
                        {2, 5, 3, 4, true, true},
                        {3, 2, 17, 4, true, true},
                        {1, 70, 33, 3, true, false},
                        {11, 9, 8, 2, false, true}}) {
    SCOPED_TRACE("T " + std::to_string(c.T) + " C " + std::to_string(c.C));
    const int64_t past = c.K - 1, count = c.B * c.T * c.C, history_count = c.history ? c.B * past * c.C : 0;
    const auto x = random(count), weight = random(c.C * c.K), history = random(history_count),
               dy = random(count);
    const Inputs in{tensor(x, {c.B, c.T, c.C}), tensor(weight, {c.C, c.K}),
                    c.history ? tensor(history, {c.B, past, c.C}) : Tensor(), tensor(dy, {c.B, c.T, c.C})};
    const Output y({c.B, c.T, c.C}), dx({c.B, c.T, c.C}), dhistory({c.history ? c.B : 0, past, c.C}),
        dweight({c.C, c.K});
    forward(c, in, y.tensor());
    for (const bool accumulate : {false, true})
      backward(c, in, dx.tensor(), c.history ? dhistory.tensor() : Tensor(), dweight.tensor(), accumulate);
    expect_close({&y, &dx, &dhistory, &dweight}, [&]<class S>(S) {
      std::vector<S> ys(count), dxs(count), dhistories(history_count), dweights(c.C * c.K);
      for (int64_t b = 0; b < c.B; ++b)
        for (int64_t t = 0; t < c.T; ++t)
          for (int64_t ch = 0; ch < c.C; ++ch) {
            const int64_t at = (b * c.T + t) * c.C + ch;
            const auto source = [&](int64_t j) { return t - past + j; };
            const auto old = [&](int64_t j) { return (b * past + past + source(j)) * c.C + ch; };
            const auto row = [&](int64_t j) {
              if (source(j) >= 0) return S(x[(b * c.T + source(j)) * c.C + ch]);
              return c.history ? S(history[old(j)]) : S(0);
            };
            S z = 0;
            for (int64_t j = 0; j < c.K; ++j) z += S(weight[ch * c.K + j]) * row(j);
            const S g = 1 / (1 + std::exp(-z));
            ys[at] = c.silu ? z * g : z;
            const S dz = S(dy[at]) * (c.silu ? g * (1 + z * (1 - g)) : S(1));
            for (int64_t j = 0; j < c.K; ++j) {
              dweights[ch * c.K + j] += 2 * dz * row(j);
              if (source(j) >= 0)
                dxs[(b * c.T + source(j)) * c.C + ch] += S(weight[ch * c.K + j]) * dz;
              else if (c.history)
                dhistories[old(j)] += S(weight[ch * c.K + j]) * dz;
            }
          }
      return Values<S>{ys, dxs, dhistories, dweights};
    });
  }
}

TEST_F(CausalConvTest, EqualBitsForAnyNumberOfThreads) {
  const Case c{11, 60, 48, 4, true, true};
  const Inputs in{tensor(random(11 * 60 * 48), {11, 60, 48}), tensor(random(48 * 4), {48, 4}),
                  tensor(random(11 * 3 * 48), {11, 3, 48}), tensor(random(11 * 60 * 48), {11, 60, 48})};
  expect_equal_for_any_number_of_threads([&] {
    const auto empty = [](const Shape& shape) { return Tensor::empty(shape, DType::f32, Device{}); };
    const std::vector<Tensor> out{empty({11, 60, 48}), empty({11, 60, 48}), empty({11, 3, 48}),
                                  empty({48, 4})};
    forward(c, in, out[0]);
    backward(c, in, out[1], out[2], out[3], false);
    return out;
  });
}

}  // namespace
}  // namespace headway
