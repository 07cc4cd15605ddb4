// Models in which a layer chooses keys or heads by comparing numbers: inference gives a token the same bits
// read alone as read with others, so no choice depends on how a text was cut.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "core/backend.h"
#include "tests/layers/choosing_models.h"
#include "tests/support/seed.h"

namespace headway::testing {
namespace {

class RowInvariance : public ::testing::TestWithParam<ChoosingModel> {
 protected:
  void TearDown() override { omp_set_num_threads(threads); }

  const int threads = omp_get_max_threads();
  const uint32_t seed = fresh_seed();
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  ChoosingCase model{GetParam(), DType::f32, *stream, seed};
  ::testing::ScopedTrace trace{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

TEST_P(RowInvariance, AnyCutOfATextGivesTheSameLogits) {
  for (const int64_t length : {int64_t{2}, int64_t{9}, int64_t{40}, model.kLength}) {
    omp_set_num_threads(1);
    const std::vector<double> one_by_one = model.logits(length, 1);
    for (const double x : one_by_one) ASSERT_TRUE(std::isfinite(x));
    for (const int64_t segment : {2, 7, 8, 31, 83}) {
      omp_set_num_threads(segment % 2 == 0 ? 3 : 1);
      EXPECT_EQ(model.logits(length, segment), one_by_one) << length << " tokens in segments of " << segment;
    }
  }
}

TEST_P(RowInvariance, OtherSequencesOfABatchChangeNoBit) {
  omp_set_num_threads(1);
  const std::vector<double> alone = model.hidden(1);
  omp_set_num_threads(3);
  EXPECT_EQ(model.hidden(4), alone);
}

INSTANTIATE_TEST_SUITE_P(Models, RowInvariance, ::testing::ValuesIn(choosing_models()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace headway::testing
