#include "trainers/metrics.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "trainers/progress.h"
#include "trainers/sampling.h"

namespace headway {
namespace {
namespace fs = std::filesystem;

class MetricsTest : public testing::Test {
 protected:
  MetricsTest() : folder(fs::temp_directory_path() / ("headway_metrics_" + std::to_string(getpid()))) {
    fs::create_directories(folder);
  }
  ~MetricsTest() override { fs::remove_all(folder); }

  static MetricRow row(double step, double loss) {
    MetricRow metrics;
    metrics.add("step", step);
    metrics.add("train/loss", loss);
    return metrics;
  }
  std::string read(const char* name) const {
    std::ifstream in(folder / name);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  fs::path folder;
};

TEST_F(MetricsTest, NumbersKeepEveryBit) {
  const double loss = 0.1 + 0.2;
  { MetricsLog(folder, 0).write(row(1, loss)); }
  EXPECT_EQ(read("metrics.jsonl"), "{\"step\":1,\"train/loss\":0.30000000000000004}\n");
}

TEST_F(MetricsTest, ResumingDropsLaterStepsAndCutLines) {
  {
    MetricsLog log(folder, 0);
    for (int step = 1; step <= 4; ++step) log.write(row(step, step));
  }
  std::ofstream(folder / "metrics.jsonl", std::ios::app) << "{\"step\": 5, \"tra";
  MetricsLog log(folder, 2);
  log.write(row(3, 9));
  EXPECT_EQ(read("metrics.jsonl"),
            "{\"step\":1,\"train/loss\":1}\n{\"step\":2,\"train/loss\":2}\n{\"step\":3,\"train/loss\":9}\n");
}

// Nobody may ever write into a pipe that stands in the file's place.
TEST_F(MetricsTest, APipeInPlaceOfTheFileIsASentence) {
  ASSERT_EQ(mkfifo((folder / "metrics.jsonl").c_str(), 0600), 0);
  try {
    MetricsLog(folder, 1);
    FAIL() << "nothing was thrown";
  } catch (const IoError& error) {
    EXPECT_EQ(std::string(error.what()),
              "cannot read " + (folder / "metrics.jsonl").string() + ": it is no regular file");
  }
}

TEST_F(MetricsTest, CsvHasAColumnPerName) {
  MetricsLog log(folder, 0);
  log.write(row(1, 2.5));
  MetricRow validation;
  validation.add("step", 2);
  validation.add("val/loss", std::nan(""));
  log.write(validation);
  log.write_csv();
  EXPECT_EQ(read("metrics.csv"), "step,train/loss,val/loss\n1,2.5,\n2,,nan\n");
}

TEST(Progress, LineHasTheAgreedFormat) {
  EXPECT_EQ(progress_line({.step = 120,
                           .last_step = 2000,
                           .loss = 3.41234,
                           .learning_rate = 3e-4,
                           .grad_norm = 0.812,
                           .tokens_per_second = 48123,
                           .peak_memory_gib = 12.31,
                           .seconds_left = 192}),
            "step 120/2000 | loss 3.4123 | lr 3.0e-04 | gnorm 0.81 | 48.1k tok/s | 12.3 GiB | eta 0:03:12");
}

TEST(Sampling, FollowsTheDistribution) {
  const std::vector<float> logits{std::log(1.0f), std::log(2.0f), std::log(5.0f), std::log(2.0f)};
  std::vector<double> counts(4);
  constexpr int n = 20000;
  for (uint64_t i = 0; i < n; ++i)
    ++counts[static_cast<size_t>(
        sample_token(logits, {.temperature = 1, .top_k = 0}, RandomKey{3, 0, 0, 0}, i))];
  EXPECT_NEAR(counts[0] / n, 0.1, 0.01);
  EXPECT_NEAR(counts[2] / n, 0.5, 0.015);
}

TEST(Sampling, GreedyAndTopKTakeTheSmallerIdOnTies) {
  const std::vector<float> logits{0, 2, 2, 1};
  EXPECT_EQ(sample_token(logits, {.temperature = 0, .top_k = 0}, {}, 0), 1);
  for (uint64_t i = 0; i < 50; ++i) EXPECT_EQ(sample_token(logits, {.temperature = 1, .top_k = 1}, {}, i), 1);
}

}  // namespace
}  // namespace headway
