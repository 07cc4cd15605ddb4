#include "kernels/cpu/linear_attention.h"

#include <limits>

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

class LinearAttentionKernelTest : public KernelTest {
 protected:
  struct Results {
    Tensor o, denominator, state, dq, dk, dv, dnorm_q, dnorm_k, dstate;
    std::vector<Tensor> all() const { return {o, denominator, state, dq, dk, dv, dnorm_q, dnorm_k, dstate}; }
  };
  /// With chunks of kChunk tokens, or as launch() does it. Outputs hold NaN before.
  template <class T, int64_t kChunk = 0>
  Results run(const std::vector<std::vector<float>>& values, const std::vector<Shape>& shapes) {
    std::vector<Tensor> x;
    for (size_t i = 0; i < values.size(); ++i)
      x.push_back(tensor(std::vector<T>(values[i].begin(), values[i].end()), shapes[i]));
    const auto empty = [](const Shape& shape) {
      const Tensor output = Tensor::empty(shape, dtype_of<T>, Device{});
      std::fill_n(output.data<T>(), output.numel(), std::numeric_limits<T>::quiet_NaN());
      return output;
    };
    const Shape features = shapes[0], heads = shapes[2];
    const Results r{empty(heads),     empty({heads[0], heads[1], heads[2]}),
                    empty(shapes[5]), empty(features),
                    empty(features),  empty(heads),
                    empty(features),  empty(features),
                    empty(shapes[5])};
    LinearAttentionInputs<T> in;
    in.q = x[0].view<const T, 4>("q");
    in.k = x[1].view<const T, 4>("k");
    in.v = x[2].view<const T, 4>("v");
    in.norm_q = x[3].view<const T, 4>("norm_q");
    in.norm_k = x[4].view<const T, 4>("norm_k");
    in.state = x[5].view<const T, 4>("state");
    in.slope = x[6].view<const T, 1>("slope");
    in.normalise = true;
    in.eps = 1e-6;
    const LinearAttentionForward<T> forward{.in = in,
                                            .o = r.o.template view<T, 4>("o"),
                                            .denominator = r.denominator.template view<T, 3>("denominator"),
                                            .state = r.state.template view<T, 4>("state")};
    const LinearAttentionBackward<T> backward{
        .in = in,
        .o = r.o.template view<const T, 4>("o"),
        .denominator = r.denominator.template view<const T, 3>("denominator"),
        .dout = x[7].view<const T, 4>("dout"),
        .dstate = x[8].view<const T, 4>("dstate"),
        .dq = r.dq.template view<T, 4>("dq"),
        .dk = r.dk.template view<T, 4>("dk"),
        .dv = r.dv.template view<T, 4>("dv"),
        .dnorm_q = r.dnorm_q.template view<T, 4>("dnorm_q"),
        .dnorm_k = r.dnorm_k.template view<T, 4>("dnorm_k"),
        .dstate_in = r.dstate.template view<T, 4>("dstate")};
    if constexpr (kChunk == 0) {
      launch(forward, *stream);
      launch(backward, *stream);
    } else {
      chunked::linear_attention_forward<kChunk>(forward, *stream);
      chunked::linear_attention_backward<kChunk>(backward, *stream);
    }
    return r;
  }
  /// Positive features, so that no denominator is near zero.
  std::vector<std::vector<float>> inputs(const std::vector<Shape>& shapes) {
    std::vector<std::vector<float>> values;
    for (const Shape& shape : shapes) values.push_back(random(shape.numel()));
    for (const size_t positive : {0, 1, 3, 4, 5, 6})
      for (float& value : values[positive]) value = std::abs(value) + 0.1f;
    return values;
  }
  static std::vector<Shape> shapes(int64_t B, int64_t T, int64_t H, int64_t F, int64_t V) {
    const Shape features{B, T, H, F}, heads{B, T, H, V}, state{B, H, F, V + 1};
    return {features, features, heads, features, features, state, {H}, heads, state};
  }
};

// The double kernel is held against the definition and difference quotients by the tests of the operation.
TEST_F(LinearAttentionKernelTest, TheFloatKernelIsNearTheDoubleOne) {
  for (const auto& sizes : {shapes(2, 130, 2, 24, 12), shapes(1, 5, 1, 3, 7), shapes(1, 64, 3, 64, 32)}) {
    const auto values = inputs(sizes);
    const std::vector<Tensor> actual = run<float>(values, sizes).all(),
                              exact = run<double>(values, sizes).all();
    for (size_t i = 0; i < exact.size(); ++i) {
      const auto error = testing::error_of<float, double>(actual[i].to_vector<float>(*stream),
                                                          exact[i].to_vector<double>(*stream));
      // Sums of up to 130 tokens times 64 features.
      EXPECT_TRUE(error.rms <= 2e-5) << "output " << i << ": " << error.rms;
    }
  }
}

TEST_F(LinearAttentionKernelTest, TheLengthOfAChunkDoesNotMatter) {
  for (const int64_t length : {1, 150, 256}) {
    SCOPED_TRACE("tokens " + std::to_string(length));
    const auto sizes = shapes(2, length, 2, 17, 6);
    const auto values = inputs(sizes);
    const std::vector<Tensor> expected = run<double>(values, sizes).all();
    const auto expect_equal = [&](const std::vector<Tensor>& actual, int64_t chunk) {
      for (size_t i = 0; i < expected.size(); ++i) {
        const auto error = testing::error_of<double, double>(actual[i].to_vector<double>(*stream),
                                                             expected[i].to_vector<double>(*stream));
        EXPECT_TRUE(error.rms <= 1e-12) << "chunk " << chunk << " output " << i << ": " << error.rms;
      }
    };
    expect_equal(run<double, 16>(values, sizes).all(), 16);
    expect_equal(run<double, 32>(values, sizes).all(), 32);
    expect_equal(run<double, 128>(values, sizes).all(), 128);
  }
}

TEST_F(LinearAttentionKernelTest, EqualBitsForAnyNumberOfThreads) {
  const auto sizes = shapes(3, 100, 4, 16, 8);
  const auto values = inputs(sizes);
  expect_equal_for_any_number_of_threads([&] { return run<float>(values, sizes).all(); });
}

}  // namespace
}  // namespace headway
