// A run that an earlier version began: run.seed chose what it held out, and its windows were cut at fixed
// places.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <regex>

#include "core/backend.h"
#include "core/io/hdf5_archive.h"
#include "tests/support/scratch_folder.h"
#include "trainers/checkpoint_folder.h"
#include "trainers/trainer.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRecipe = R"(
[data]
seq_len = 16
val_fraction = 0.4
[model]
num_layers = 1
model_dim = 16
attention.num_heads = 2
[train]
batch_tokens = 128
micro_batch = 4
max_steps = 8
[schedule]
warmup_steps = 2
[generate]
tokens = 0
)";

struct Runs {
  Runs() {
    for (int file = 0; file < 10; ++file) {
      std::ofstream text(folder / (std::to_string(file) + ".txt"));
      for (int i = 0; i < 60; ++i) text << i * (file + 7) % 97 << ' ';
    }
  }
  void train(const std::string& name, std::vector<std::string> overrides) const {
    overrides.insert(overrides.end(), {"run.name=" + name, "run.folder=" + (folder / "runs").string(),
                                       "run.seed=3", "data.text=" + (folder / "*.txt").string()});
    const auto comm = Communicator::create(Device{}, 60);
    const auto stream = cpu_backend().make_stream();
    Trainer(parse_recipe(kRecipe, "recipe", overrides), *comm, *stream).run();
  }
  fs::path checkpoint(const std::string& name, int64_t step) const {
    return folder / "runs" / name / "checkpoints" / checkpoint_name(step);
  }
  std::string log(const std::string& name) const {
    std::ifstream file(folder / "runs" / name / "log.txt");
    return {std::istreambuf_iterator<char>(file), {}};
  }

  ScratchFolder folder;
};

/// Writes the checkpoint as versions did that knew neither data.split_seed nor data.windows.
void make_older(const fs::path& path) {
  const auto stream = cpu_backend().make_stream();
  const fs::path older = path.string() + ".older";
  Hdf5Reader reader(path);
  Hdf5Writer writer(older, *stream, {.format = kCheckpointFormat, .layout = Hdf5Layout::contiguous});
  for (const ArchiveEntry& entry : reader.entries("")) {
    const Tensor tensor = Tensor::empty(entry.shape, entry.dtype, Device{});
    reader.tensor(entry.path, tensor, *stream);
    writer.tensor(entry.path, tensor);
  }
  for (const std::string& name : reader.texts("")) {
    std::string text = reader.text(name);
    if (name == "recipe") {
      text = std::regex_replace(text, std::regex("(^|\n)(split|split_seed|windows) = [^\n]*"), "$1");
      text = std::regex_replace(text, std::regex("\nfinal_tokens = [^\n]*"), "\nbatches = 4");
    }
    writer.text(name, text);
  }
  for (const std::string owner : {"", "env", "state", "data", "optim/adamw", "tokenizer"})
    for (const auto& [name, value] : reader.attributes(owner)) {
      if (owner.empty() && name != "step" && name != "tokens") continue;
      std::visit([&, &name = name](const auto& v) { writer.attribute(owner, name, v); }, value);
    }
  writer.finish();
  fs::rename(older, path);
}

TEST(OlderRun, GoesOnWithItsSplitAndItsWindowsAndSaysSo) {
  const Runs runs;
  const std::vector<std::string> rules{"data.split_seed=3", "data.windows=fixed"};
  runs.train("whole", rules);
  std::vector<std::string> first_half = rules;
  first_half.push_back("train.stop_step=4");
  runs.train("parts", first_half);
  make_older(runs.checkpoint("parts", 4));
  EXPECT_EQ(read_run_info(*open_checkpoint(runs.checkpoint("parts", 4))).trained_on.held_out,
            read_run_info(*open_checkpoint(runs.checkpoint("whole", 8))).trained_on.held_out);
  runs.train("parts", {"checkpoint.resume=auto", "train.stop_step=6"});
  runs.train("parts", {"checkpoint.resume=auto"});
  EXPECT_EQ(open_checkpoint(runs.checkpoint("parts", 8))->digest("model"),
            open_checkpoint(runs.checkpoint("whole", 8))->digest("model"));
  const std::string log = runs.log("parts");
  EXPECT_NE(
      log.find("goes on with data.split_seed = 3, as the run began, when run.seed still chose what is held "
               "out\n"),
      std::string::npos)
      << log;
  EXPECT_NE(log.find("goes on with data.windows = fixed, as the run began"), std::string::npos) << log;
}

TEST(OlderRun, IsNotGivenAnotherSplit) {
  const Runs runs;
  runs.train("a", {"data.split_seed=3", "data.windows=fixed", "train.stop_step=2"});
  make_older(runs.checkpoint("a", 2));
  EXPECT_THROW(runs.train("a", {"checkpoint.resume=auto", "data.split_seed=0"}), CheckpointError);
  EXPECT_THROW(runs.train("a", {"checkpoint.resume=auto", "data.windows=moving"}), CheckpointError);
}

}  // namespace
}  // namespace headway
