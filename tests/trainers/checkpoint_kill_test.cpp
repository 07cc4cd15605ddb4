// Death and a full disk in the middle of a save, with save_loop as the victim.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <thread>

#include "tests/support/scratch_folder.h"
#include "trainers/checkpoint_folder.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

struct LoopEnd {
  int exit_status = -1;  // -1: killed
  int64_t resumed = -1;  // -1: it did not come that far
  int64_t last_saved = -1;
  std::string errors;
};

struct LoopOptions {
  int64_t width = 2048;  // about 1.6 MB a checkpoint
  int64_t num_saves = 1'000'000;
  std::chrono::microseconds kill_after{0};  // 0: not at all
  bool kill_counts_from_first_save = false;
  rlim_t file_bytes = RLIM_INFINITY;
};

std::string contents(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class CheckpointKillTest : public testing::Test {
 protected:
  LoopEnd loop(const fs::path& checkpoints, const LoopOptions& options) {
    const fs::path out = folder / "out.txt", err = folder / "err.txt";
    const std::string width = std::to_string(options.width), saves = std::to_string(options.num_saves);
    fs::remove(out);
    const pid_t pid = fork();
    if (pid == 0) {
      dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
      dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
      const rlimit limit{options.file_bytes, RLIM_INFINITY};
      setrlimit(RLIMIT_FSIZE, &limit);
      execl(HEADWAY_SAVE_LOOP, HEADWAY_SAVE_LOOP, checkpoints.c_str(), width.c_str(), saves.c_str(), nullptr);
      _exit(127);
    }
    if (options.kill_after.count() > 0) {
      // A loop that fails before its first save is killed too late, and its exit status tells.
      constexpr int kPatience_ms = 30'000;
      for (int waited = 0; options.kill_counts_from_first_save && waited < kPatience_ms; ++waited) {
        if (contents(out).find("saved") != std::string::npos) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      std::this_thread::sleep_for(options.kill_after);
      kill(pid, SIGKILL);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    LoopEnd end;
    if (WIFEXITED(status)) end.exit_status = WEXITSTATUS(status);
    std::istringstream lines(contents(out));
    std::string what;
    for (int64_t step = 0; lines >> what >> step;) (what == "saved" ? end.last_saved : end.resumed) = step;
    end.errors = contents(err);
    return end;
  }

  static int64_t newest_step(const fs::path& checkpoints) {
    const NewestValid newest = newest_valid_checkpoint(checkpoints);
    EXPECT_TRUE(newest.rejected.empty()) << newest.rejected.front();
    return newest.path ? std::stoll(newest.path->stem().string().substr(5)) : 0;
  }

  static int num_hidden(const fs::path& checkpoints) {
    int count = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints))
      count += entry.path().filename().string().starts_with('.');
    return count;
  }

  ScratchFolder folder;
};

TEST_F(CheckpointKillTest, FiftyKillsLoseNoCheckpointAndEveryResumeWorks) {
  constexpr int kKills = 50;
  const unsigned seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  const fs::path checkpoints = folder / "checkpoints";
  fs::create_directory(checkpoints);
  int64_t known = 0;  // newest step that was reported as saved, or found
  int during_a_save = 0;
  for (int i = 0; i < kKills; ++i) {
    // Every second kill counts from the start, so that start-up and resuming are hit too.
    const LoopOptions options{.kill_after = std::chrono::microseconds(1'000 + random() % 100'000),
                              .kill_counts_from_first_save = i % 2 == 0};
    const LoopEnd end = loop(checkpoints, options);
    ASSERT_EQ(end.exit_status, -1) << end.errors;
    if (end.resumed >= 0) {
      ASSERT_EQ(end.resumed, known) << "the run did not go on from the newest checkpoint";
    }
    during_a_save += num_hidden(checkpoints) > 0;
    const int64_t found = newest_step(checkpoints);
    const int64_t at_least = std::max(known, end.last_saved);
    ASSERT_GE(found, at_least) << "a checkpoint was lost";
    ASSERT_LE(found, at_least + 1);
    known = found;
  }
  const LoopEnd last = loop(checkpoints, {.num_saves = 1});
  EXPECT_EQ(last.exit_status, 0) << last.errors;
  EXPECT_EQ(last.resumed, known);
  EXPECT_EQ(num_hidden(checkpoints), 0) << "leftovers of killed processes are still there";
  std::cout << kKills << " kills, " << during_a_save << " during a save or a deletion, " << known
            << " checkpoints saved\n";
  EXPECT_GE(during_a_save, kKills / 10);
  EXPECT_GE(known, kKills / 2);
}

TEST_F(CheckpointKillTest, FullDiskEndsWithStatusSevenAndKeepsTheOldCheckpoint) {
  const fs::path disk = folder / "disk";
  fs::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=24m") != 0)
    GTEST_SKIP() << "mounting a tmpfs is not permitted here: " << std::strerror(errno);
  // 12.7 MB each: the second does not fit.
  const LoopEnd end = loop(disk, {.width = 16384, .num_saves = 2});
  EXPECT_EQ(end.exit_status, 7) << end.errors;
  EXPECT_NE(end.errors.find("checkpoint step-00000002.h5 needs"), std::string::npos) << end.errors;
  EXPECT_EQ(newest_step(disk), 1);
  EXPECT_EQ(num_hidden(disk), 0);
  EXPECT_EQ(umount(disk.c_str()), 0);
}

// statvfs knows nothing of a limit on the size of a file, so here the write itself fails.
TEST_F(CheckpointKillTest, FailingWriteEndsWithStatusSevenAndKeepsTheOldCheckpoint) {
  const fs::path checkpoints = folder / "checkpoints";
  fs::create_directory(checkpoints);
  ASSERT_EQ(loop(checkpoints, {.num_saves = 1}).exit_status, 0);
  const uintmax_t bytes = fs::file_size(checkpoints / checkpoint_name(1));
  for (const uintmax_t limit : {bytes - 1, bytes - 600, bytes / 2, bytes / 10, uintmax_t{5000}}) {
    const LoopEnd end = loop(checkpoints, {.num_saves = 1, .file_bytes = limit});
    EXPECT_EQ(end.exit_status, 7) << limit << ": " << end.errors;
    EXPECT_NE(end.errors.find("File too large"), std::string::npos) << end.errors;
    EXPECT_EQ(newest_step(checkpoints), 1);
    EXPECT_EQ(num_hidden(checkpoints), 0);
  }
}

}  // namespace
}  // namespace headway
