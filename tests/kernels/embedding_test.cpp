#include "kernels/ops/embedding.h"

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

class EmbeddingTest : public KernelTest {
 protected:
  void backward(const Tensor& ids, const Tensor& dy, const Tensor& dweight, bool accumulate) {
    launch(EmbeddingBackward<float>{.ids = ids.view<const int32_t, 1>("ids"),
                                    .dy = dy.view<const float, 2>("dy"),
                                    .dweight = dweight.view<float, 2>("dweight"),
                                    .accumulate = accumulate},
           *stream);
  }
};

TEST_F(EmbeddingTest, RowsAreCopiedAndTheirGradientsSummed) {
  const Shape sizes[] = {{1, 1, 1}, {1, 9, 130}, {50, 3, 7}, {333, 256, 100}};
  for (const Shape& nvd : sizes) {
    SCOPED_TRACE(nvd.to_string());
    const int64_t n = nvd[0], v = nvd[1], d = nvd[2];
    const auto ids = random_ids(n, v);
    const auto weight = random(v * d), dy = random(n * d);
    const Tensor ids_tensor = tensor(ids, {n}), weight_tensor = tensor(weight, {v, d}),
                 dy_tensor = tensor(dy, {n, d});
    const Output y({n, d}), dweight({v, d});
    launch(EmbeddingForward<float>{.ids = ids_tensor.view<const int32_t, 1>("ids"),
                                   .weight = weight_tensor.view<const float, 2>("weight"),
                                   .y = y.tensor().view<float, 2>("y")},
           *stream);
    backward(ids_tensor, dy_tensor, dweight.tensor(), false);
    backward(ids_tensor, dy_tensor, dweight.tensor(), true);
    expect_close({&y, &dweight}, [&]<class S>(S) {
      std::vector<S> rows(n * d), sums(v * d);
      for (int64_t i = 0; i < n * d; ++i) {
        rows[i] = S(weight[ids[i / d] * d + i % d]);
        sums[ids[i / d] * d + i % d] += 2 * S(dy[i]);
      }
      return Values<S>{rows, sums};
    });
  }
}

TEST_F(EmbeddingTest, EqualBitsForAnyNumberOfThreads) {
  const Tensor ids = tensor(random_ids(2000, 10), {2000}), dy = tensor(random(2000 * 50), {2000, 50});
  expect_equal_for_any_number_of_threads([&] {
    const Tensor dweight = Tensor::empty({10, 50}, DType::f32, Device{});
    backward(ids, dy, dweight, false);
    return std::vector{dweight};
  });
}

class AddPositionsTest : public KernelTest {};

TEST_F(AddPositionsTest, EverySequenceGetsTheSameRows) {
  for (const int64_t offset : {0, 2}) {
    const int64_t b = 3, t = 5, d = 37, p = 9;
    const auto x = random(b * t * d), weight = random(p * d), dy = random(b * t * d);
    const Tensor x_tensor = tensor(x, {b, t, d}), weight_tensor = tensor(weight, {p, d}),
                 dy_tensor = tensor(dy, {b, t, d});
    const Output y({b, t, d}), dweight({p, d});
    launch(AddPositionsForward<float>{.x = x_tensor.view<const float, 3>("x"),
                                      .weight = weight_tensor.view<const float, 2>("weight"),
                                      .y = y.tensor().view<float, 3>("y"),
                                      .positions = {.first = offset}},
           *stream);
    for (const bool accumulate : {false, true})
      launch(AddPositionsBackward<float>{.dy = dy_tensor.view<const float, 3>("dy"),
                                         .dweight = dweight.tensor().view<float, 2>("dweight"),
                                         .positions = {.first = offset},
                                         .accumulate = accumulate},
             *stream);
    expect_close({&y, &dweight}, [&]<class S>(S) {
      std::vector<S> ys(b * t * d), dweights(p * d);
      for (int64_t i = 0; i < b * t * d; ++i) {
        const int64_t position = (offset + i / d % t) * d + i % d;
        ys[i] = S(x[i]) + S(weight[position]);
        dweights[position] += 2 * S(dy[i]);
      }
      return Values<S>{ys, dweights};
    });
  }
}

TEST_F(AddPositionsTest, PositionsBeyondTheTableAreOneSentence) {
  const Tensor x = tensor(random(2 * 4 * 3), {2, 4, 3}), weight = tensor(random(5 * 3), {5, 3});
  try {
    launch(AddPositionsForward<float>{.x = x.view<const float, 3>("x"),
                                      .weight = weight.view<const float, 2>("weight"),
                                      .y = x.view<float, 3>("y"),
                                      .positions = {.first = 2}},
           *stream);
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "add_positions: position 5 is beyond the 5 learned ones");
  }
}

}  // namespace
}  // namespace headway
