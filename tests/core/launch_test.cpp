#include "core/comm/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace headway {
namespace {

// Sets variables for the length of a test; those of a launcher around the test itself are hidden.
class Environment {
 public:
  Environment(const Environment&) = delete;
  explicit Environment(std::initializer_list<std::pair<const char*, const char*>> values) {
    for (const char* name :
         {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
          "OMPI_COMM_WORLD_LOCAL_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK", "MPI_LOCALRANKID",
          "MPI_LOCALNRANKS", "SLURM_NTASKS", "SLURM_LOCALID", "OMP_NUM_THREADS"}) {
      if (const char* value = std::getenv(name)) before_[name] = value;
      names_.push_back(name);
      unsetenv(name);
    }
    for (const auto& [name, value] : values) setenv(name, value, 1);
  }
  ~Environment() {
    for (const std::string& name : names_) unsetenv(name.c_str());
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
  }

 private:
  std::vector<std::string> names_;
  std::map<std::string, std::string> before_;
};

TEST(Launch, WithoutALauncherThereIsOneRank) {
  const Environment environment({{"SLURM_NTASKS", "8"}});  // a batch script has this without a launcher
  const Launch launch = read_launch();
  EXPECT_FALSE(launch.has_launcher);
  EXPECT_EQ(launch.size, 1);
  EXPECT_EQ(launch.local_size, 1);
}

TEST(Launch, OpenMpiIsRecognised) {
  const Environment environment({{"OMPI_COMM_WORLD_SIZE", "8"},
                                 {"OMPI_COMM_WORLD_RANK", "5"},
                                 {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                 {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}});
  const Launch launch = read_launch();
  EXPECT_TRUE(launch.has_launcher);
  EXPECT_EQ(launch.rank, 5);
  EXPECT_EQ(launch.size, 8);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.local_size, 4);
}

TEST(Launch, ProcessManagerInterfaceIsRecognised) {
  const Environment environment({{"PMI_SIZE", "2"}, {"PMI_RANK", "1"}, {"MPI_LOCALRANKID", "1"}});
  const Launch launch = read_launch();
  EXPECT_TRUE(launch.has_launcher);
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.size, 2);
  EXPECT_EQ(launch.local_rank, 1);
}

TEST(Cores, ListsAndNonsenseInOmpNumThreads) {
  {
    const Environment environment({{"OMP_NUM_THREADS", "3,2"}});
    EXPECT_EQ(read_cores().omp_num_threads, 3);
  }
  {
    const Environment environment({{"OMP_NUM_THREADS", "many"}});
    EXPECT_EQ(read_cores().omp_num_threads, 0);
  }
  EXPECT_GE(read_cores().allowed, 1);
  EXPECT_GE(read_cores().available, read_cores().allowed);
}

ThreadPlan plan(int local_size, int allowed, int available, int omp_num_threads) {
  Launch launch;
  launch.size = launch.local_size = local_size;
  return plan_threads(launch, {allowed, available, omp_num_threads});
}

TEST(ThreadPlan, CoresAreSharedAmongTheRanksOfAMachine) {
  EXPECT_EQ(plan(1, 8, 8, 0).num_threads, 8);
  EXPECT_EQ(plan(2, 8, 8, 0).num_threads, 4);
  EXPECT_EQ(plan(3, 8, 8, 0).num_threads, 2);
  EXPECT_EQ(plan(2, 4, 8, 0).num_threads, 4) << "each rank is bound to its half";
  EXPECT_EQ(plan(2, 8, 8, 0).warning, "");
  EXPECT_EQ(plan(2, 4, 8, 0).warning, "");
}

TEST(ThreadPlan, OmpNumThreadsWins) {
  EXPECT_EQ(plan(2, 8, 8, 3).num_threads, 3);
  EXPECT_EQ(plan(2, 8, 8, 3).warning, "");
}

TEST(ThreadPlan, ABoundSingleRankIsToldHowToUseAllCores) {
  const ThreadPlan bound = plan(1, 1, 2, 0);
  EXPECT_EQ(bound.num_threads, 1);
  EXPECT_NE(bound.warning.find("1 rank is bound to 1 of 2 cores"), std::string::npos) << bound.warning;
  EXPECT_NE(bound.warning.find("--bind-to none"), std::string::npos) << bound.warning;
}

TEST(ThreadPlan, AMaskSmallerThanTheThreadsIsAWarning) {
  const ThreadPlan squeezed = plan(1, 1, 2, 2);
  EXPECT_EQ(squeezed.num_threads, 2);
  EXPECT_NE(squeezed.warning.find("2 threads per rank share 1 core:"), std::string::npos) << squeezed.warning;
}

TEST(ThreadPlan, OversubscriptionIsAWarning) {
  const ThreadPlan crowded = plan(4, 2, 2, 0);
  EXPECT_EQ(crowded.num_threads, 1);
  EXPECT_NE(crowded.warning.find("4 ranks of 1 thread share 2 cores"), std::string::npos) << crowded.warning;
}

}  // namespace
}  // namespace headway
