// Saves checkpoints back to back until it is killed:  save_loop FOLDER WIDTH NUM_SAVES
//
// Starts like a run does: removes leftovers, resumes from the newest valid checkpoint and checks every value
// of it. Prints "resumed STEP" and "saved STEP" lines; leaves with the exit status of the error it met.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "core/error.h"
#include "tests/trainers/sample_states.h"
#include "trainers/checkpoint_folder.h"

using namespace headway;

namespace {

void say(const char* what, int64_t step) {
  std::printf("%s %lld\n", what, static_cast<long long>(step));
  std::fflush(stdout);
}

void save_back_to_back(const std::filesystem::path& folder, int64_t width, int64_t num_saves) {
  const std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  SampleRun run(width);
  run.set_step(0);
  remove_leftovers(folder);
  const NewestValid newest = newest_valid_checkpoint(folder);
  for (const std::string& why : newest.rejected) std::cerr << "rejected " << why << "\n";
  if (!newest.rejected.empty()) throw CheckpointError("a finished checkpoint did not verify");
  if (newest.path) {
    run.info = load_checkpoint(*newest.path, run.states(), *stream);
    if (!run.is_consistent(run.info)) throw Error(ExitCode::unexpected, "the loaded values are wrong");
  }
  say("resumed", run.info.step);
  for (int64_t i = 0; i < num_saves; ++i) {
    run.set_step(run.info.step + 1);
    save_checkpoint(folder / checkpoint_name(run.info.step), run.states(), run.info, *stream);
    say("saved", run.info.step);
    prune_checkpoints(folder, run.info.step, {.keep_last = 3, .keep_every = 10});
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return static_cast<int>(ExitCode::bad_usage);
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is an error of the write, not the end
  try {
    save_back_to_back(argv[1], std::atoll(argv[2]), std::atoll(argv[3]));
    return 0;
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
