#include "trainers/grad_reducer.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>

#include "core/backend.h"
#include "core/comm/thread.h"
#include "core/error.h"
#include "grad_reducer_case.h"

namespace headway {
namespace {

constexpr double kTimeout_s = 60;

// Notes the size of every reduction that starts; nothing is reduced and nothing has arrived until wait().
class Recorder final : public Communicator {
 public:
  explicit Recorder(int size) : size_(size) {}
  std::vector<int64_t> started;
  int num_waits = 0;

  int rank() const override { return 0; }
  int size() const override { return size_; }
  int local_rank() const override { return 0; }
  void all_reduce(const Tensor&, Reduce, Stream&) override { FAIL() << "a blocking all_reduce"; }
  std::unique_ptr<PendingReduce> start_all_reduce(const Tensor& tensor, Reduce reduce, Stream&) override {
    EXPECT_EQ(reduce, Reduce::sum);
    started.push_back(tensor.numel());
    return std::make_unique<Pending>(*this);
  }
  std::unique_ptr<PendingReduce> start_reduce_scatter(const Tensor& tensor, Reduce reduce,
                                                      Stream& stream) override {
    return start_all_reduce(tensor, reduce, stream);
  }
  void all_gather(const Tensor&, Stream&) override { FAIL() << "an all_gather"; }
  void broadcast(const Tensor&, int, Stream&) override { FAIL() << "a broadcast"; }
  void barrier() override { FAIL() << "a barrier"; }
  std::unique_ptr<Communicator> split(int) override { throw CommError("split"); }
  [[noreturn]] void abort(int) override { throw CommError("abort"); }

 private:
  class Pending final : public PendingReduce {
   public:
    explicit Pending(Recorder& recorder) : recorder_(recorder) {}
    bool poll() override { return false; }
    void wait() override { ++recorder_.num_waits; }

   private:
    Recorder& recorder_;
  };
  int size_;
};

class GradReducerTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
};

TEST_F(GradReducerTest, BucketsFillFromTheLastParameterAndStartWhenComplete) {
  Recorder comm(2);
  const std::vector<Shape> shapes = {{32}, {64}, {16}, {48}};
  GradReducer reducer(comm, *stream, shapes, DType::f32, 64 * sizeof(float));
  ASSERT_EQ(reducer.layout().buckets().size(), 3u);  // {48, 16}, {64}, {32}
  reducer.ready(3);
  EXPECT_TRUE(comm.started.empty());
  reducer.ready(2);
  EXPECT_EQ(comm.started, (std::vector<int64_t>{64}));
  reducer.ready(0);  // its bucket waits for its turn
  EXPECT_EQ(comm.started, (std::vector<int64_t>{64}));
  reducer.ready(1);
  EXPECT_EQ(comm.started, (std::vector<int64_t>{64, 64, 32}));
  reducer.finish();
  EXPECT_EQ(comm.num_waits, 3);
}

TEST_F(GradReducerTest, ALargeGradientTravelsInPieces) {
  Recorder comm(2);
  const std::vector<Shape> shapes = {{100, 10}, {16}};
  GradReducer reducer(comm, *stream, shapes, DType::f32, 256 * sizeof(float));
  reducer.ready(1);
  EXPECT_EQ(comm.started, (std::vector<int64_t>{32}));
  reducer.ready(0);
  // Rounded up to whole cache lines of both ranks.
  EXPECT_EQ(comm.started, (std::vector<int64_t>{32, 256, 256, 256, 256}));
  reducer.finish();
}

TEST_F(GradReducerTest, GradientsAreViewsOfOneFlatTensor) {
  Recorder comm(2);
  const std::vector<Shape> shapes = {{3, 5}, {2}};
  GradReducer reducer(comm, *stream, shapes, DType::f32, 1 << 20);
  EXPECT_EQ(reducer.gradient(0).shape(), (Shape{3, 5}));
  EXPECT_EQ(reducer.gradient(1).raw(), reducer.flat().raw());
  EXPECT_EQ(reducer.gradient(0).data<float>(), reducer.flat().data<float>() + 16);
  for (const float value : reducer.flat().to_vector<float>(*stream)) EXPECT_EQ(value, 0);
}

TEST_F(GradReducerTest, OneRankDoesNothing) {
  Recorder comm(1);
  const std::vector<Shape> shapes = {{3, 5}, {2}};
  GradReducer reducer(comm, *stream, shapes, DType::f32, 1 << 20);
  reducer.ready(0);
  reducer.ready(1);
  reducer.finish();
  EXPECT_TRUE(comm.started.empty());
}

TEST_F(GradReducerTest, MistakesAreNamed) {
  Recorder comm(2);
  const std::vector<Shape> shapes = {{3}, {4}, {5}};
  GradReducer reducer(comm, *stream, shapes, DType::f32, 1 << 20);
  reducer.ready(1);
  EXPECT_THROW(reducer.ready(1), ShapeError);
  EXPECT_THROW(reducer.ready(3), ShapeError);
  try {
    reducer.finish();
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "the gradients of this step are incomplete, never ready: 0 2");
  }
}

class GradReducerRanks : public testing::TestWithParam<int> {};

TEST_P(GradReducerRanks, GradientsBecomeSums) { run_as_threads(GetParam(), kTimeout_s, check_grad_reducer); }
INSTANTIATE_TEST_SUITE_P(Ranks, GradReducerRanks, testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace headway
