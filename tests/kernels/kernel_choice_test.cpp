#include "kernels/kernel_choice.h"

#include <gtest/gtest.h>

#include "core/backend.h"

namespace headway::testing {
namespace {

struct Call {
  static constexpr const char* name = "call";
  int width;
};

int last_run = 0;

template <int kNumber>
void run(const Call&, Stream&) {
  last_run = kNumber;
}
std::string too_wide(const Call& call, const Stream&) {
  return call.width <= 64 ? "" : "its width is " + std::to_string(call.width);
}
std::string not_whole(const Call& call, const Stream&) {
  return call.width % 8 == 0 ? "" : std::to_string(call.width) + " is no multiple of 8";
}
constexpr std::array<KernelOption<Call>, 3> kOptions{
    {{"fast", too_wide, run<1>}, {"slower", not_whole, run<2>}, {"slowest", nullptr, run<3>}}};

class KernelChoice : public ::testing::Test {
 protected:
  int kernel_of(int width) {
    run_first(kOptions, Call{width}, *stream_);
    return last_run;
  }
  std::unique_ptr<Stream> stream_ = cpu_backend().make_stream();
};

TEST_F(KernelChoice, TheFirstKernelThatDoesNotRefuseRuns) {
  EXPECT_EQ(kernel_of(64), 1);
  EXPECT_EQ(kernel_of(72), 2);
  EXPECT_EQ(kernel_of(75), 3);
}

TEST_F(KernelChoice, TheSummaryNamesEachChoiceOnceAndWhyFasterKernelsRefused) {
  const KernelChoices choices;
  EXPECT_EQ(choices.summary(), "");
  for (const int width : {64, 8, 72, 75, 75}) kernel_of(width);
  EXPECT_EQ(choices.summary(),
            "call: fast; call: slower (not fast, because its width is 72); call: slowest (not fast, because "
            "its width is 75; not slower, because 75 is no multiple of 8)");
}

TEST_F(KernelChoice, NothingIsCollectedWithoutACollector) {
  { const KernelChoices choices; }
  EXPECT_EQ(KernelChoices::current(), nullptr);
  EXPECT_EQ(kernel_of(64), 1);
}

}  // namespace
}  // namespace headway::testing
