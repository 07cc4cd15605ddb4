#include "core/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "core/backend.h"
#include "core/bf16.h"
#include "core/dual.h"
#include "core/rng.h"

namespace headway {
namespace {

class TensorTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();

  Tensor counting(const Shape& shape) {
    std::vector<float> values(static_cast<size_t>(shape.numel()));
    std::iota(values.begin(), values.end(), 0.0f);
    return Tensor::from<float>(values, shape, *stream);
  }
};

TEST_F(TensorTest, ViewsShareMemory) {
  const Tensor tensor = counting({2, 3, 4});
  const Tensor part = tensor.slice(1, 1, 3).transpose(1, 2);
  EXPECT_EQ(part.shape(), (Shape{2, 4, 2}));
  EXPECT_FALSE(part.is_contiguous());
  const auto view = part.view<float, 3>("part");
  EXPECT_EQ(view(1, 2, 1), 12 + 8 + 2);
  view(1, 2, 1) = -1;
  EXPECT_EQ((tensor.view<const float, 3>("tensor")(1, 2, 2)), -1);
}

TEST_F(TensorTest, ReshapeInfersOneSize) {
  EXPECT_EQ(counting({4, 6}).reshape({-1, 3}).shape(), (Shape{8, 3}));
  EXPECT_THROW(counting({4, 6}).reshape({5, 5}), ShapeError);
  EXPECT_THROW(counting({4, 6}).transpose(0, 1).reshape({24}), ShapeError);
}

TEST_F(TensorTest, WrongDtypeAndRankNameTheTensor) {
  try {
    counting({2, 2}).view<double, 2>("query");
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "query: dtype f32 where f64 is expected");
  }
  try {
    counting({2, 2}).view<float, 3>("query");
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "query: shape [2, 2] where 3 dimensions are expected");
  }
}

TEST_F(TensorTest, FreedMemoryIsReused) {
  (void)counting({1000, 100});
  const uint64_t before = memory_stats(Device{}).num_device_allocations;
  for (int i = 0; i < 10; ++i) (void)Tensor::empty({1000, 100}, DType::f32, Device{});
  EXPECT_EQ(memory_stats(Device{}).num_device_allocations, before);
}

TEST(MemoryStats, CountWhatIsInUse) {
  const size_t before = memory_stats(Device{}).in_use_bytes;
  {
    const Tensor tensor = Tensor::empty({1024}, DType::f32, Device{});
    EXPECT_EQ(memory_stats(Device{}).in_use_bytes - before, 4096u);
  }
  EXPECT_EQ(memory_stats(Device{}).in_use_bytes, before);
}

TEST(MemoryStats, CountAdoptedMemoryUntilItIsReleased) {
  const MemoryStats before = memory_stats(Device{});
  alignas(64) float values[16] = {1, 2, 3};
  bool released = false;
  {
    const Tensor tensor = Tensor::over(
        Storage::adopt(values, sizeof values, Device{}, [&] { released = true; }), {4, 4}, DType::f32);
    EXPECT_EQ(tensor.data<float>()[2], 3);
    EXPECT_EQ(memory_stats(Device{}).in_use_bytes - before.in_use_bytes, sizeof values);
    EXPECT_THROW(Tensor::over(tensor.storage(), {17}, DType::f32), ShapeError);
    EXPECT_FALSE(released);
  }
  EXPECT_TRUE(released);
  EXPECT_EQ(memory_stats(Device{}).in_use_bytes, before.in_use_bytes);
  EXPECT_EQ(memory_stats(Device{}).reserved_bytes, before.reserved_bytes);
}

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(static_cast<float>(bf16(1.0f)), 1.0f);
  EXPECT_EQ(static_cast<float>(bf16(1.0f + 0x1p-8f)), 1.0f);           // tie, to even
  EXPECT_EQ(static_cast<float>(bf16(1.0f + 3 * 0x1p-8f)), 1.015625f);  // tie, to even
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(static_cast<float>(bf16(std::numeric_limits<float>::max()))));
}

// Known answers of Random123 1.14 (kat_vectors, philox4x32 10).
TEST(Philox, MatchesKnownAnswers) {
  const PhiloxBlock zero = philox4x32({{0, 0, 0, 0}}, 0);
  EXPECT_EQ(zero.word[0], 0x6627e8d5u);
  EXPECT_EQ(zero.word[1], 0xe169c58du);
  EXPECT_EQ(zero.word[2], 0xbc57ac4cu);
  EXPECT_EQ(zero.word[3], 0x9b00dbd8u);
  const PhiloxBlock pi =
      philox4x32({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0x299f31d0a4093822ull);
  EXPECT_EQ(pi.word[0], 0xd16cfe09u);
  EXPECT_EQ(pi.word[1], 0x94fdccebu);
  EXPECT_EQ(pi.word[2], 0x5001e420u);
  EXPECT_EQ(pi.word[3], 0x24126ea1u);
}

TEST(Rng, NumbersDoNotDependOnHowABatchIsSplit) {
  Rng whole(7), part(7);
  whole.begin(3, 0);
  part.begin(3, 2);  // starts at sequence 2 of the same global batch
  const RandomKey a = whole.next(10), b = part.next(10);
  for (uint64_t i = 0; i < 10; ++i) EXPECT_EQ(random_bits(a, 20 + i), random_bits(b, i));
}

TEST(Rng, NormalHasUnitVariance) {
  const RandomKey key{1, 0, 0, 0};
  double sum = 0, squares = 0;
  constexpr int n = 20000;
  for (uint64_t i = 0; i < n; ++i) {
    const double x = normal(key, i);
    sum += x, squares += x * x;
  }
  EXPECT_NEAR(sum / n, 0, 0.03);
  EXPECT_NEAR(squares / n, 1, 0.05);
}

TEST(Dual, CarriesDerivatives) {
  const Dual<double> x{0.7, 1};
  const Dual<double> y = tanh(exp(x) / (x * x + Dual<double>(2)));
  const auto f = [](double v) { return std::tanh(std::exp(v) / (v * v + 2)); };
  EXPECT_NEAR(y.eps, (f(0.7 + 1e-6) - f(0.7 - 1e-6)) / 2e-6, 1e-9);
}

TEST(Build, NotANumberIsSeen) {
  volatile double zero = 0;
  EXPECT_TRUE(std::isnan(zero / zero)) << "the build must not use fast-math";
}

}  // namespace
}  // namespace headway
