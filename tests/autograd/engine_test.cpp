#include "autograd/engine.h"

#include <gtest/gtest.h>

#include <vector>

#include "autograd/apply.h"
#include "autograd/loss_collector.h"
#include "autograd/recompute.h"
#include "core/backend.h"

namespace headway {
namespace {

Tensor scaled(const Tensor& a, double factor) {
  const Tensor y = Tensor::empty(a.shape(), a.dtype(), a.device());
  for (int64_t i = 0; i < a.numel(); ++i) y.data<double>()[i] = factor * a.data<double>()[i];
  return y;
}

// y = a * b elementwise, in double: enough of an operation to test the graph with.
struct Multiply {
  static constexpr const char* name = "multiply";
  struct Config {};
  struct Saved {
    Tensor a, b;
    auto tensors() const { return std::tie(a, b); }
  };
  static Tensor product(const Tensor& a, const Tensor& b) {
    const Tensor y = Tensor::empty(a.shape(), a.dtype(), a.device());
    for (int64_t i = 0; i < a.numel(); ++i) y.data<double>()[i] = a.data<double>()[i] * b.data<double>()[i];
    return y;
  }
  static Tensor forward(Context&, Saved* saved, const Config&, const Tensor& a, const Tensor& b) {
    if (saved) *saved = {a, b};
    return product(a, b);
  }
  static Grads<2> backward(Context&, const Saved& saved, const Tensor& dy, const Needs<2>& needs) {
    return {needs[0] ? product(dy, saved.b) : Tensor(), needs[1] ? product(dy, saved.a) : Tensor()};
  }
};

// y = a + b, whose backward hands the same memory to both inputs.
struct Sum {
  static constexpr const char* name = "sum";
  struct Config {};
  struct Saved {
    auto tensors() const { return std::tie(); }
  };
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& a, const Tensor& b) {
    const Tensor y = Tensor::empty(a.shape(), a.dtype(), a.device());
    for (int64_t i = 0; i < a.numel(); ++i) y.data<double>()[i] = a.data<double>()[i] + b.data<double>()[i];
    return y;
  }
  static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&) { return {dy, dy}; }
};

// [2a, 3a]
struct Split {
  static constexpr const char* name = "split";
  struct Config {};
  struct Saved {
    auto tensors() const { return std::tie(); }
  };
  static std::array<Tensor, 2> forward(Context&, Saved*, const Config&, const Tensor& a) {
    return {scaled(a, 2), scaled(a, 3)};
  }
  static Grads<1> backward(Context&, const Saved&, const Grads<2>& dy, const Needs<1>&) {
    EXPECT_FALSE(dy[0].defined() && dy[1].defined());
    return {dy[0] ? scaled(dy[0], 2) : scaled(dy[1], 3)};
  }
};

class EngineTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  Rng rng{1};
  Context ctx{.stream = *stream, .rng = rng, .training = true, .recording = true};

  Variable leaf(double value) {
    return Variable::leaf(Tensor::from<double>(std::vector<double>{value}, {1}, *stream));
  }
  static double grad(const Variable& leaf) { return leaf.grad().data<double>()[0]; }
};

TEST_F(EngineTest, GradientsOfAllUsesAreSummed) {
  const Variable x = leaf(3), y = leaf(5);
  const Variable xy = apply<Multiply>(ctx, {}, x, y);
  backward(ctx, apply<Sum>(ctx, {}, apply<Multiply>(ctx, {}, xy, x),
                           apply<Sum>(ctx, {}, xy, xy)));  // x^2 y + 2 x y
  EXPECT_EQ(grad(x), 2 * 3 * 5 + 2 * 5);
  EXPECT_EQ(grad(y), 3 * 3 + 2 * 3);
}

TEST_F(EngineTest, OneLeafTwiceInOneOperation) {
  const Variable x = leaf(3);
  backward(ctx, apply<Multiply>(ctx, {}, x, x));
  EXPECT_EQ(grad(x), 6);
}

TEST_F(EngineTest, UnusedOutputsHaveNoGradient) {
  const Variable x = leaf(1);
  backward(ctx, apply<Split>(ctx, {}, x)[1]);
  EXPECT_EQ(grad(x), 3);
}

TEST_F(EngineTest, LaterMicroStepsAccumulateAndResetOverwrites) {
  const Variable x = leaf(3), y = leaf(5);
  for (int i = 0; i < 3; ++i) backward(ctx, apply<Multiply>(ctx, {}, x, y), MicroStep::more_follow);
  EXPECT_EQ(grad(x), 15);
  x.edge().leaf->written = false;
  EXPECT_FALSE(x.grad().defined());
  backward(ctx, apply<Multiply>(ctx, {}, x, y));
  EXPECT_EQ(grad(x), 5);
}

TEST_F(EngineTest, LeavesAreReadyOnceAfterTheirLastUse) {
  const Variable x = leaf(3), y = leaf(5);
  std::vector<std::pair<char, double>> ready;
  x.edge().leaf->on_ready = [&] { ready.emplace_back('x', grad(x)); };
  y.edge().leaf->on_ready = [&] { ready.emplace_back('y', grad(y)); };
  const auto graph = [&] { return apply<Multiply>(ctx, {}, apply<Multiply>(ctx, {}, x, x), y); };
  backward(ctx, graph(), MicroStep::more_follow);
  EXPECT_TRUE(ready.empty());
  backward(ctx, graph(), MicroStep::last);
  const std::vector<std::pair<char, double>> expected{{'y', 18}, {'x', 60}};
  EXPECT_EQ(ready, expected);
}

TEST_F(EngineTest, NothingIsRecordedWithoutLeavesOrRecording) {
  EXPECT_FALSE(
      apply<Multiply>(ctx, {}, Variable(leaf(1).value()), Variable(leaf(1).value())).requires_grad());
  ctx.recording = false;
  EXPECT_FALSE(apply<Multiply>(ctx, {}, leaf(1), leaf(2)).requires_grad());
}

TEST_F(EngineTest, LongChainsNeedNoStack) {
  const Variable x = leaf(1);
  Variable y = x;
  for (int i = 0; i < 200000; ++i) y = apply<Sum>(ctx, {}, y, Variable(x.value()));
  backward(ctx, y);
  EXPECT_EQ(grad(x), 1);
}

TEST_F(EngineTest, SavedMemoryIsCountedOnceAndFreed) {
  const Variable x = leaf(2);
  {
    const Variable xx = apply<Multiply>(ctx, {}, x, x);   // saves the leaf: not counted
    const Variable y = apply<Multiply>(ctx, {}, xx, xx);  // saves xx twice: counted once
    EXPECT_EQ(saved_bytes(y), sizeof(double));
  }
  const size_t before = memory_stats(Device{}).in_use_bytes;
  Variable y = apply<Multiply>(ctx, {}, apply<Multiply>(ctx, {}, x, x), x);
  backward(ctx, y);
  y = Variable();
  EXPECT_EQ(memory_stats(Device{}).in_use_bytes - before, 512u);  // the gradient of x alone
}

TEST_F(EngineTest, RecomputedBlocksGiveTheSameGradients) {
  const Variable x = leaf(3), weight = leaf(5);
  int runs = 0, ready = 0;
  weight.edge().leaf->on_ready = [&] { ++ready; };
  std::vector<uint32_t> streams;
  const BlockFunction block = [&](Context& c, const Variable& input) {
    ++runs;
    streams.push_back(c.rng.next(1).stream);
    const Variable square = apply<Multiply>(c, {}, input, input);
    if (c.auxiliary) c.auxiliary->add({"square", square, 0.5});
    return apply<Multiply>(c, {}, square, weight);
  };
  LossCollector auxiliary;
  ctx.auxiliary = &auxiliary;
  const Variable y = recompute(ctx, block, apply<Sum>(ctx, {}, x, x), {weight.edge().leaf});
  ASSERT_EQ(auxiliary.losses().size(), 1u);
  EXPECT_EQ(saved_bytes(y), sizeof(double));
  (void)ctx.rng.next(1);
  backward(ctx, apply<Sum>(ctx, {}, y, auxiliary.losses()[0].loss));  // (2x)^2 w + (2x)^2
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(streams[0], streams[1]);
  EXPECT_EQ(ctx.rng.position(), 2u);
  EXPECT_EQ(grad(x), 8 * 3 * 5 + 8 * 3);
  EXPECT_EQ(grad(weight), 36);
  EXPECT_EQ(ready, 1);
}

}  // namespace
}  // namespace headway
