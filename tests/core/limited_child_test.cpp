#include "core/io/limited_child.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <vector>

#include "core/error.h"

namespace headway {
namespace {

std::string failure_of(const ChildLimits& limits, const std::function<std::string()>& work) {
  try {
    run_in_limited_child(limits, work);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no error";
}

TEST(LimitedChild, AnswersOfAnySizeComeBack) {
  EXPECT_EQ(run_in_limited_child({}, [] { return std::string(); }), "");
  const std::string long_answer(3'000'000, 'x');
  EXPECT_EQ(run_in_limited_child({}, [&] { return long_answer; }), long_answer);
}

TEST(LimitedChild, ErrorsComeBackAsCheckpointErrors) {
  EXPECT_EQ(failure_of({}, []() -> std::string { throw CheckpointError("too odd"); }), "too odd");
}

TEST(LimitedChild, CrashesEndTheChildAlone) {
  EXPECT_EQ(failure_of({},
                       []() -> std::string {
                         std::signal(SIGSEGV, SIG_DFL);
                         raise(SIGSEGV);
                         return "";
                       }),
            "reading it crashed (Segmentation fault)");
}

TEST(LimitedChild, SpinningAndSleepingEndAtTheirLimits) {
  const std::string expected = "reading it took longer than is allowed";
  EXPECT_EQ(failure_of({.cpu_seconds = 1},
                       []() -> std::string {
                         for (volatile unsigned i = 0;;) i = i + 1;  // wraps, never overflows
                       }),
            expected);
  EXPECT_EQ(failure_of({.wall_seconds = 1},
                       []() -> std::string {
                         for (;;) pause();
                       }),
            expected);
}

TEST(LimitedChild, MemoryIsLimited) {
  const std::string failure = failure_of({.extra_memory_bytes = 64 << 20}, [] {
    std::vector<char> large(size_t{1} << 30, 'x');
    return std::string(1, large.back());
  });
  EXPECT_NE(failure, "no error");
}

}  // namespace
}  // namespace headway
