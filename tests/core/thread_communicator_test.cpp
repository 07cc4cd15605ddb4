#include "core/comm/thread.h"

#include <gtest/gtest.h>

#include <chrono>
#include <stdexcept>
#include <string>

#include "collective_cases.h"
#include "core/backend.h"
#include "core/comm/local.h"

namespace headway {
namespace {

constexpr double kTimeout_s = 60;

// The message of the error that f ends with on `size` ranks.
std::string failure(int size, double timeout_s, const std::function<void(Communicator&)>& f) {
  try {
    run_as_threads(size, timeout_s, f);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

Tensor zeros(const Shape& shape, DType dtype = DType::f32) {
  return Tensor::zeros(shape, dtype, *cpu_backend().make_stream());
}

class ThreadCommunicator : public testing::TestWithParam<int> {};

TEST_P(ThreadCommunicator, CollectivesAreRight) {
  run_as_threads(GetParam(), kTimeout_s, [](Communicator& comm) {
    check_all_collectives(comm, Memory::of_the_device, *cpu_backend().make_stream());
  });
}
TEST_P(ThreadCommunicator, RanksAgreeOnErrorsAndTexts) {
  run_as_threads(GetParam(), kTimeout_s, check_agreement);
}
TEST_P(ThreadCommunicator, PendingReductionsOverlap) {
  run_as_threads(GetParam(), kTimeout_s, [](Communicator& comm) {
    check_overlapping_reductions(comm, Memory::of_the_device, *cpu_backend().make_stream());
  });
}
TEST_P(ThreadCommunicator, BitsAreEqualOnAllRanksAndRepeatable) {
  run_as_threads(GetParam(), kTimeout_s, [](Communicator& comm) {
    check_equal_bits(comm, Memory::of_the_device, *cpu_backend().make_stream());
  });
}
TEST_P(ThreadCommunicator, PartsHaveCollectivesOfTheirOwn) {
  run_as_threads(GetParam(), kTimeout_s, [](Communicator& comm) {
    check_split(comm, Memory::of_the_device, *cpu_backend().make_stream());
  });
}
INSTANTIATE_TEST_SUITE_P(Ranks, ThreadCommunicator, testing::Values(1, 2, 3, 4));

TEST(ThreadCommunicatorFailure, DifferentSizesAreAnErrorOnEveryRank) {
  const std::string message = failure(2, kTimeout_s, [](Communicator& comm) {
    const auto stream = cpu_backend().make_stream();
    EXPECT_THROW(comm.all_reduce(zeros({4 + comm.rank()}), Reduce::sum, *stream), CommError);
    throw std::runtime_error("seen");
  });
  EXPECT_EQ(message, "seen");
}

TEST(ThreadCommunicatorFailure, DisagreementNamesBothSides) {
  const std::string message = failure(2, kTimeout_s, [](Communicator& comm) {
    const auto stream = cpu_backend().make_stream();
    if (comm.rank() == 0)
      comm.all_reduce(zeros({4}), Reduce::max, *stream);
    else
      comm.barrier();
  });
  EXPECT_NE(message.find("all_reduce (max) of 4 f32"), std::string::npos) << message;
  EXPECT_NE(message.find("barrier"), std::string::npos) << message;
}

TEST(ThreadCommunicatorFailure, AMissingRankIsNamedAtTheDeadline) {
  const std::string message = failure(3, 0.2, [](Communicator& comm) {
    if (comm.rank() != 1) comm.barrier();
  });
  EXPECT_NE(message.find("barrier (collective number 1) has not finished within 0.2 s, missing rank(s): 1"),
            std::string::npos)
      << message;
}

TEST(ThreadCommunicatorFailure, OneFailingRankEndsTheOthersAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(failure(4, kTimeout_s,
                    [](Communicator& comm) {
                      if (comm.rank() == 1) throw std::runtime_error("planted");
                      comm.barrier();
                    }),
            "planted");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(ThreadCommunicatorFailure, AbortCarriesItsStatus) {
  try {
    run_as_threads(2, kTimeout_s, [](Communicator& comm) {
      if (comm.rank() == 1) comm.abort(static_cast<int>(ExitCode::numeric_failure));
      comm.barrier();
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::numeric_failure);
  }
}

TEST(CollectiveArguments, AreCheckedAtTheDoor) {
  const auto stream = cpu_backend().make_stream();
  const auto comm = make_local_communicator();
  EXPECT_THROW(comm->all_reduce(zeros({4}, DType::bf16), Reduce::sum, *stream), ShapeError);
  EXPECT_THROW(comm->all_reduce(zeros({4, 3}).transpose(0, 1), Reduce::sum, *stream), ShapeError);
  EXPECT_THROW(comm->broadcast(zeros({4}), 1, *stream), CommError);
  EXPECT_THROW(comm->broadcast(zeros({4}), -1, *stream), CommError);
}

TEST(LocalCommunicator, CollectivesAreRight) {
  const auto comm = make_local_communicator();
  check_all_collectives(*comm, Memory::of_the_communicator, *cpu_backend().make_stream());
  check_overlapping_reductions(*comm, Memory::of_the_communicator, *cpu_backend().make_stream());
  EXPECT_EQ(comm->size(), 1);
  EXPECT_EQ(comm->local_rank(), 0);
}

}  // namespace
}  // namespace headway
