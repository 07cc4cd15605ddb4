// AdamW whose moments are spread over the ranks, beside the same updates on one.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/comm/local.h"
#include "core/comm/thread.h"
#include "core/error.h"
#include "core/io/memory_archive.h"
#include "trainers/grad_reducer.h"
#include "trainers/optimizer.h"

namespace headway {
namespace {

constexpr double kTimeout_s = 60;
constexpr size_t kBucketBytes = 4096;

// Larger than several buckets, odd, empty, a scalar, frozen ones in between.
class Parameters final : public Module {
 public:
  Parameters() {
    add_parameter("matrix", {41, 113}, Init::normal(1), true);
    add_parameter("frozen", {7}, Init::normal(1), false).frozen = true;
    add_parameter("vector", {333}, Init::normal(1), false);
    add_parameter("nothing", {0, 5}, Init::normal(1), true);
    add_parameter("scalar", {}, Init::normal(1), false);
    add_parameter("another", {64, 64}, Init::normal(1), true);
  }
};

std::vector<Parameter*> trained(Module& module) {
  std::vector<Parameter*> all;
  module.visit("", [&](const std::string&, Parameter& parameter) {
    if (!parameter.frozen) all.push_back(&parameter);
  });
  return all;
}

/// Updates of one rank; gradients are whole numbers, so their sums over ranks are exact.
class Training {
 public:
  Training(Communicator& comm, bool shards) : comm_(comm) {
    model_.materialize(DType::f32, 3, *stream_);
    std::vector<Shape> shapes;
    for (const Parameter* parameter : trained(model_)) shapes.push_back(parameter->shape);
    reducer_ = std::make_unique<GradReducer>(comm_, *stream_, shapes, DType::f32, kBucketBytes,
                                             shards ? GradSums::own_parts : GradSums::all);
    const AdamWConfig config;
    if (shards)
      adamw_ = std::make_unique<AdamW>(model_, config, reducer_->layout(), comm_, *stream_);
    else
      adamw_ = std::make_unique<AdamW>(model_, config, *stream_);
    for (size_t i = 0; i < shapes.size(); ++i) trained(model_)[i]->gradient->grad = reducer_->gradient(i);
  }

  void run(int first, int last, double grad_scale = 0.25) {
    const Tensor scale = Tensor::from<double>(std::vector{grad_scale}, {1}, *stream_);
    for (int step = first; step <= last; ++step) {
      for (size_t p = 0; p < trained(model_).size(); ++p) {
        const Tensor& gradient = reducer_->gradient(p);
        for (int64_t i = 0; i < gradient.numel(); ++i)
          gradient.data<float>()[i] =
              static_cast<float>((i * 7 + step * 13 + static_cast<int64_t>(p)) % 31 - 15) /
              static_cast<float>(comm_.size());
        reducer_->ready(p);
      }
      reducer_->finish();
      adamw_->step(step, 1e-2, scale, *stream_);
    }
  }

  double grad_norm() {
    const Tensor squares = Tensor::zeros({1}, DType::f64, *stream_);
    add_squares(reducer_->summed(), squares, *stream_);
    comm_.all_reduce(squares, Reduce::sum, *stream_);
    return std::sqrt(squares.data<double>()[0]);
  }

  /// Parameters and moments, as bytes.
  std::vector<std::string> state() {
    std::vector<std::string> all;
    const auto add = [&](const Tensor& tensor) {
      all.emplace_back(static_cast<const char*>(tensor.raw()), tensor.bytes());
    };
    model_.visit("", [&](const std::string&, Parameter& parameter) { add(parameter.value); });
    MemoryArchive archive(*stream_);
    save(archive);
    for (const ArchiveEntry& entry : archive.entries("")) {
      const Tensor tensor = Tensor::empty(entry.shape, entry.dtype, Device{});
      archive.tensor(entry.path, tensor, *stream_);
      add(tensor);
    }
    return all;
  }

  void save(MemoryArchive& archive) {
    adamw_->gather_moments(*stream_);
    adamw_->save(archive, "adamw");
    adamw_->keep_own_moments(*stream_);
  }
  void load(MemoryArchive& archive) {
    adamw_->gather_moments(*stream_);
    adamw_->load(archive, "adamw", *stream_);
    adamw_->keep_own_moments(*stream_);
  }
  AdamW& adamw() { return *adamw_; }

 private:
  Communicator& comm_;
  std::unique_ptr<Stream> stream_ = cpu_backend().make_stream();
  Parameters model_;
  std::unique_ptr<GradReducer> reducer_;
  std::unique_ptr<AdamW> adamw_;
};

class ShardedOptimizer : public testing::TestWithParam<int> {
 protected:
  std::vector<std::string> unsharded(int steps) const {
    const auto local = make_local_communicator();
    Training training(*local, false);
    training.run(1, steps);
    return training.state();
  }
};

// Ranks divide by powers of two exactly, so that their gradients add up to the same bits.
TEST_P(ShardedOptimizer, GivesTheBitsOfOneRank) {
  const std::vector<std::string> expected = unsharded(3);
  run_as_threads(GetParam(), kTimeout_s, [&](Communicator& comm) {
    Training training(comm, true);
    EXPECT_TRUE(training.adamw().is_sharded());
    training.run(1, 3);
    EXPECT_EQ(training.state(), expected) << "rank " << comm.rank();
    training.run(4, 4, -1);
    EXPECT_EQ(training.state(), expected) << "a negative scale changed something on rank " << comm.rank();
  });
}

TEST_P(ShardedOptimizer, SumsOfSquaresCoverEveryElementOnce) {
  const auto local = make_local_communicator();
  Training alone(*local, false);
  alone.run(1, 1);
  const double expected = alone.grad_norm();
  run_as_threads(GetParam(), kTimeout_s, [&](Communicator& comm) {
    Training training(comm, true);
    training.run(1, 1);
    EXPECT_LE(std::abs(training.grad_norm() - expected), 1e-12 * expected);
  });
}

TEST_P(ShardedOptimizer, CheckpointsDoNotDependOnTheNumberOfRanks) {
  const std::vector<std::string> expected = unsharded(4);
  run_as_threads(GetParam(), kTimeout_s, [&](Communicator& comm) {
    const auto local = make_local_communicator();
    const auto stream = cpu_backend().make_stream();
    MemoryArchive of_one(*stream), of_all(*stream);
    Training alone(*local, false), sharded(comm, true);
    alone.run(1, 2);
    alone.save(of_one);
    sharded.run(1, 2);
    sharded.save(of_all);
    // Each goes on with the other's moments.
    alone.load(of_all);
    sharded.load(of_one);
    alone.run(3, 4);
    sharded.run(3, 4);
    EXPECT_EQ(alone.state(), expected);
    EXPECT_EQ(sharded.state(), expected);
  });
}

TEST(ShardedOptimizerMistake, MomentsMustBeGatheredBeforeTheyAreSaved) {
  run_as_threads(2, kTimeout_s, [](Communicator& comm) {
    Training training(comm, true);
    MemoryArchive archive(*cpu_backend().make_stream());
    EXPECT_THROW(training.adamw().save(archive, "adamw"), CheckpointError);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShardedOptimizer, testing::Values(1, 2, 4));

}  // namespace
}  // namespace headway
