#include "trainers/checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "core/bf16.h"
#include "core/comm/agreement.h"
#include "core/comm/thread.h"
#include "core/io/atomic_file.h"
#include "core/io/hdf5_archive.h"
#include "core/io/memory_archive.h"
#include "core/text/tokenizer.h"
#include "layers/model.h"
#include "tests/support/scratch_folder.h"
#include "tests/trainers/sample_states.h"
#include "trainers/checkpoint_folder.h"
#include "trainers/export_weights.h"
#include "trainers/inspect_checkpoint.h"
#include "trainers/states.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

constexpr double kTimeout_s = 60;

template <class ErrorType>
std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const ErrorType& error) {
    return error.what();
  }
  return "nothing was thrown";
}

const CheckpointFolder::Objection kNoObjection = [](ArchiveReader&, const RunInfo&) { return std::string(); };

void flip_byte(const fs::path& path, double at) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const auto offset = static_cast<std::streamoff>(static_cast<double>(fs::file_size(path)) * at);
  file.seekg(offset);
  const int byte = file.get();
  file.seekp(offset);
  file.put(static_cast<char>(byte ^ 1));
}

class CheckpointTest : public testing::Test {
 protected:
  void save(SampleRun& run, int64_t step) {
    run.set_step(step);
    save_checkpoint(folder / checkpoint_name(step), run.states(), run.info, *stream);
  }
  std::vector<std::string> names() {
    std::vector<std::string> all;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder.path()))
      all.push_back(entry.path().filename().string());
    std::ranges::sort(all);
    return all;
  }

  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  ScratchFolder folder;
};

TEST_F(CheckpointTest, WhatWasSavedIsLoadedBitForBit) {
  SampleRun run(32), other(32);
  run.set_step(7);
  run.info.environment = {.world_size = 4,
                          .threads = 2,
                          .is_deterministic = false,
                          .device = "cuda",
                          .dtype = "bf16",
                          .libraries = "MPI 4"};
  save_checkpoint(folder / "a.h5", run.states(), run.info, *stream);
  const RunInfo info = load_checkpoint(folder / "a.h5", other.states(), *stream);
  EXPECT_EQ(info.step, 7);
  EXPECT_TRUE(other.is_consistent(info));
  EXPECT_EQ(info.environment.world_size, 4);
  EXPECT_EQ(info.environment.device, "cuda");
  EXPECT_EQ(info.environment.dtype, "bf16");
  EXPECT_EQ(info.environment.libraries, "MPI 4");
  EXPECT_FALSE(info.environment.is_deterministic);
  EXPECT_EQ(names(), std::vector<std::string>{"a.h5"});
  EXPECT_LE(fs::file_size(folder / "a.h5"), checkpoint_bytes(run.states(), run.info));
}

TEST_F(CheckpointTest, EveryDifferenceIsInOneError) {
  SampleRun run(32);
  save(run, 1);
  SampleRun other(33);
  other.model.entries.push_back({"blocks/1/norm", Tensor::zeros({33}, DType::f32, *stream)});
  other.moments.entries.pop_back();
  const fs::path path = folder / checkpoint_name(1);
  EXPECT_EQ(message_of<CheckpointError>([&] { load_checkpoint(path, other.states(), *stream); }),
            path.string() +
                " does not fit this run, 6 differences:\n"
                "  model/blocks/0/mlp/up is f32 [32, 3], expected f32 [33, 3]\n"
                "  model/blocks/0/norm is f32 [32], expected f32 [33]\n"
                "  model/blocks/1/norm is missing (f32 [33] expected)\n"
                "  model/embedding/weight is f32 [64, 32], expected f32 [64, 33]\n"
                "  optim/adamw/m/embedding/weight is f32 [64, 32], expected f32 [64, 33]\n"
                "  optim/adamw/v/embedding/weight (f32 [64, 32]) is not part of this run");
}

TEST_F(CheckpointTest, ResumeTakesTheNewestThatVerifiesAndSaysWhy) {
  SampleRun run(32);
  for (const int64_t step : {10, 20, 30}) save(run, step);
  flip_byte(folder / checkpoint_name(30), 0.5);
  std::ofstream(folder / checkpoint_name(40)) << "not a checkpoint";
  std::ofstream(folder / "step-x.h5") << "not named like one";
  const NewestValid newest = newest_valid_checkpoint(folder.path());
  ASSERT_TRUE(newest.path);
  EXPECT_EQ(newest.path->filename(), "step-00000020.h5");
  ASSERT_EQ(newest.rejected.size(), 2u);
  EXPECT_NE(newest.rejected[0].find("step-00000040.h5: not an HDF5 file"), std::string::npos);
  EXPECT_NE(newest.rejected[1].find("step-00000030.h5: "), std::string::npos);
  EXPECT_FALSE(newest_valid_checkpoint(folder / "absent").path);
}

TEST_F(CheckpointTest, LatestDecidesWhichCheckpointIsInForce) {
  SampleRun run(4);
  for (const int64_t step : {10, 20, 30}) save(run, step);
  fs::create_symlink(checkpoint_name(20), folder / "latest");
  EXPECT_EQ(newest_valid_checkpoint(folder.path()).path->filename(), checkpoint_name(20));
  flip_byte(folder / checkpoint_name(20), 0.5);
  EXPECT_EQ(newest_valid_checkpoint(folder.path()).path->filename(), checkpoint_name(10));
  flip_byte(folder / checkpoint_name(10), 0.5);
  EXPECT_EQ(newest_valid_checkpoint(folder.path()).path->filename(), checkpoint_name(30));
}

TEST_F(CheckpointTest, WhatABranchLeavesBehindIsSetAsideAndKept) {
  SampleRun run(4);
  for (int i = 0; i < 2; ++i) {
    for (const int64_t step : {10, 20, 30}) save(run, step);
    EXPECT_EQ(set_aside(folder.path(), 10).size(), 2u);
    EXPECT_EQ(fs::read_symlink(folder / "latest"), checkpoint_name(10));
  }
  EXPECT_EQ(names(), (std::vector<std::string>{"aside", "latest", checkpoint_name(10)}));
  for (const char* name :
       {"step-00000020.h5", "step-00000020-2.h5", "step-00000030.h5", "step-00000030-2.h5"})
    EXPECT_TRUE(fs::exists(folder / "aside" / name)) << name;
  EXPECT_TRUE(set_aside(folder.path(), 10).empty());
}

TEST_F(CheckpointTest, WhereNoCheckpointLoadsNothingIsTakenForAbsent) {
  SampleRun sample(4);
  for (const int64_t step : {10, 20}) {
    save(sample, step);
    flip_byte(folder / checkpoint_name(step), 0.5);
  }
  run_as_threads(2, kTimeout_s, [&](Communicator& comm) {
    const std::unique_ptr<Stream> mine = cpu_backend().make_stream();
    SampleRun run(4);
    CheckpointFolder checkpoints(folder.path(), {}, comm, *mine);
    const std::string message =
        message_of<CheckpointError>([&] { checkpoints.load_newest(run.states(), kNoObjection); });
    EXPECT_NE(message.find("no checkpoint can be read"), std::string::npos) << message;
    for (const int64_t step : {10, 20})
      EXPECT_NE(message.find(checkpoint_name(step)), std::string::npos) << message;
  });
}

TEST_F(CheckpointTest, AFileThatIsLockedForAMomentIsTriedAgain) {
  SampleRun run(4);
  save(run, 10);
  const int descriptor = open((folder / checkpoint_name(10)).c_str(), O_RDWR);
  ASSERT_EQ(flock(descriptor, LOCK_EX), 0);
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    close(descriptor);
  });
  EXPECT_TRUE(newest_valid_checkpoint(folder.path()).path);
  other.join();
}

TEST_F(CheckpointTest, RetentionKeepsTheLastAndEveryNth) {
  SampleRun run(4);
  for (int64_t step = 1; step <= 9; ++step) save(run, step);
  EXPECT_TRUE(prune_checkpoints(folder.path(), 8, {.keep_last = 0}).empty());
  EXPECT_EQ(names().size(), 9u);
  EXPECT_TRUE(prune_checkpoints(folder.path(), 8, {.keep_last = 2, .keep_every = 4}).empty());
  EXPECT_EQ(names(), (std::vector<std::string>{checkpoint_name(4), checkpoint_name(7), checkpoint_name(8),
                                               checkpoint_name(9)}));
}

TEST_F(CheckpointTest, LeftoversOfDeadProcessesGoAndThoseOfLivingOnesStay) {
  // A process id says nothing: in another container this one has the dead writer's.
  const std::string gone = ".step-00000001.h5.tmp." + std::to_string(getpid());
  for (const std::string& name : {gone, std::string(".step-00000003.h5.doomed"), std::string("notes.tmp.1")})
    std::ofstream(folder / name) << "x";
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t writer = fork();
  if (writer == 0) {
    const AtomicFile file(folder / "step-00000002.h5");
    std::ofstream(file.temporary()) << "x";
    (void)!write(ready[1], "x", 1);
    pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const std::string alive = ".step-00000002.h5.tmp." + std::to_string(writer);
  EXPECT_EQ(remove_leftovers(folder.path()), std::vector<std::string>{".step-00000003.h5.doomed"});
  EXPECT_EQ(names(), (std::vector<std::string>{gone, alive, "notes.tmp.1"}));
  kill(writer, SIGKILL);
  waitpid(writer, nullptr, 0);
  EXPECT_EQ(remove_leftovers(folder.path()).size(), 2u);
  EXPECT_EQ(names(), std::vector<std::string>{"notes.tmp.1"});
  for (const int end : ready) close(end);
}

TEST_F(CheckpointTest, TooSmallDiskIsNoticedBeforeWriting) {
  // Memory that is never touched: only its size counts.
  SampleRun run(4);
  run.model.entries.push_back({"huge", Tensor::empty({int64_t{1} << 10}, DType::f32, Device{})});
  const uint64_t free_bytes = fs::space(folder.path()).available;
  EXPECT_NO_THROW(save(run, 1));
  const std::string message =
      message_of<IoError>([&] { require_free_space(folder.path(), free_bytes * 2, "checkpoint x.h5"); });
  EXPECT_NE(message.find("checkpoint x.h5 needs"), std::string::npos) << message;
}

TEST_F(CheckpointTest, ExportedWeightsLoadForEvaluation) {
  SampleRun run(300);
  save(run, 3);
  const ExportReport exact = export_weights(folder / checkpoint_name(3), {}, std::nullopt);
  EXPECT_EQ(exact.to.filename(), "step-00000003-weights.h5");
  EXPECT_EQ(exact.num_tensors, 3);
  SampleRun other(300);
  const RunInfo info = load_weights(exact.to, other.model, *stream);
  EXPECT_EQ(info.recipe, run.info.recipe);
  EXPECT_EQ(info.step, 3);
  EXPECT_TRUE(other.model.is_consistent());
  Hdf5Reader reader(exact.to);
  EXPECT_EQ(reader.entries("optim").size(), 0u);
  EXPECT_EQ(reader.entries("tokenizer").size(), 1u);
  EXPECT_EQ(reader.string("", "format"), "headway-weights");
  // And straight from the checkpoint, whose optimiser state is not asked for.
  SampleRun third(300);
  load_weights(folder / checkpoint_name(3), third.model, *stream);
  EXPECT_TRUE(third.model.is_consistent());
}

TEST_F(CheckpointTest, AnOpenCheckpointLoadsAfterItsRunDeletedIt) {
  SampleRun run(64);
  save(run, 3);
  const std::unique_ptr<Hdf5Reader> reader = open_checkpoint(folder.path());
  save(run, 4);
  EXPECT_TRUE(prune_checkpoints(folder.path(), 4, {.keep_last = 1}).empty());
  EXPECT_EQ(names(), std::vector<std::string>{checkpoint_name(4)});
  SampleRun other(64);
  EXPECT_EQ(load_weights(*reader, other.model, *stream).step, 3);
  EXPECT_TRUE(other.model.is_consistent());
}

TEST_F(CheckpointTest, Bf16ExportRoundsToNearestEvenAndIsWidenedOnLoading) {
  SampleRun run(300);
  save(run, 3);
  const ExportReport report = export_weights(folder.path(), folder / "w.h5", DType::bf16);
  EXPECT_LE(report.bytes, static_cast<uint64_t>(report.num_values) * 2 + 40'000);
  EXPECT_EQ(Hdf5Reader(folder / "w.h5").entries("model")[0].dtype, DType::bf16);
  SampleRun other(300);
  load_weights(folder / "w.h5", other.model, *stream);
  for (size_t i = 0; i < other.model.entries.size(); ++i) {
    const std::vector<float> expected = run.model.entries[i].value.to_vector<float>(*stream);
    const std::vector<float> loaded = other.model.entries[i].value.to_vector<float>(*stream);
    for (size_t j = 0; j < loaded.size(); ++j)
      ASSERT_EQ(loaded[j], static_cast<float>(bf16(expected[j]))) << other.model.entries[i].path << " " << j;
  }
}

/// A matrix and a vector.
class TwoParameters : public Module {
 public:
  explicit TwoParameters(const std::string& vector_name, int64_t width = 3)
      : matrix(add_parameter("old/weight", {2, width}, Init::ones(), true)),
        vector(add_parameter(vector_name, {4}, Init::ones(), true)) {}
  Parameter &matrix, &vector;
};

TEST_F(CheckpointTest, AModelOfAnotherKindTakesTheWeightsItShares) {
  TwoParameters source("old/bias");
  source.materialize(DType::f32, 1, *stream);
  for (int i = 0; i < 6; ++i) source.matrix.value.data<float>()[i] = static_cast<float>(i) / 4;
  ModelState state(source);
  const NamedState named{"model", &state};
  save_checkpoint(folder / "source.h5", std::span(&named, 1), RunInfo(), *stream);

  TwoParameters model("new/bias");
  model.materialize(DType::f32, 1, *stream);
  Hdf5Reader reader(folder / "source.h5");
  const MatchingWeights weights = load_matching_weights(reader, model, *stream);
  EXPECT_EQ(weights.loaded, std::vector<std::string>{"model/old/weight"});
  EXPECT_EQ(weights.missing, std::vector<std::string>{"model/new/bias"});
  EXPECT_EQ(weights.unused, std::vector<std::string>{"model/old/bias"});
  for (int i = 0; i < 6; ++i) EXPECT_EQ(model.matrix.value.data<float>()[i], static_cast<float>(i) / 4);
  EXPECT_EQ(model.vector.value.to_vector<float>(*stream), std::vector<float>(4, 1.0f));

  TwoParameters wider("new/bias", 5);
  wider.materialize(DType::f32, 1, *stream);
  const std::string expected = (folder / "source.h5").string() + ": model/old/weight has the shape " +
                               Shape({2, 3}).to_string() + ", and this model's " + Shape({2, 5}).to_string();
  const auto load = [&] { load_matching_weights(reader, wider, *stream); };
  EXPECT_EQ(message_of<CheckpointError>(load), expected);
}

TEST_F(CheckpointTest, RunsDoNotGoOnFromWeightsAlone) {
  SampleRun run(8);
  save(run, 3);
  export_weights(folder / checkpoint_name(3), folder / "w.h5", std::nullopt);
  EXPECT_NE(message_of<CheckpointError>([&] {
              load_checkpoint(folder / "w.h5", run.states(), *stream);
            }).find("holds weights only"),
            std::string::npos);
}

TEST_F(CheckpointTest, ExportRefusesWhatItCannotDo) {
  SampleRun run(8);
  save(run, 3);
  const fs::path path = folder / checkpoint_name(3);
  EXPECT_THROW(export_weights(path, path, std::nullopt), ConfigError);
  EXPECT_THROW(export_weights(path, {}, DType::i32), ConfigError);
  EXPECT_THROW(export_weights(folder / "absent.h5", {}, std::nullopt), CheckpointError);
  fs::create_directory(folder / "none");
  EXPECT_EQ(message_of<CheckpointError>([&] { export_weights(folder / "none", {}, std::nullopt); }),
            (folder / "none").string() + ": no usable checkpoint there");
  flip_byte(path, 0.5);
  EXPECT_THROW(export_weights(path, folder / "w.h5", std::nullopt), CheckpointError);
  EXPECT_FALSE(fs::exists(folder / "w.h5"));
}

/// A run as it saves itself, but with another recipe in its record where one is given.
std::filesystem::path save_run(const fs::path& path, int64_t vocab_size, const std::string& recipe_text,
                               Stream& stream) {
  Recipe recipe =
      parse_recipe(fmt::format("[data]\ntext = [\"x\"]\n[model]\nnum_layers = 1\nmodel_dim = 8\n"
                               "vocab_size = {}\nattention.num_heads = 1\n[train]\nmax_steps = 30\n",
                               vocab_size),
                   "test", {});
  const auto tokenizer = Tokenizer::create("bytes");
  recipe.resolve(1);
  Model model(recipe.model);
  model.materialize(DType::f32, 1, stream);
  ModelState model_state(model);
  TokenizerState tokenizer_state(*tokenizer);
  RunState run_state;
  DataState data_state;
  const NamedState states[] = {
      {"model", &model_state}, {"state", &run_state}, {"data", &data_state}, {"tokenizer", &tokenizer_state}};
  RunInfo info;
  info.recipe = recipe_text.empty() ? recipe.to_toml() : recipe_text;
  save_checkpoint(path, states, info, stream);
  return path;
}

TEST_F(CheckpointTest, WhatLoadingWouldFindWrongIsFoundBeforeAnythingIsBuilt) {
  const auto refusal = [&](int64_t vocab_size, const std::string& recipe) {
    Hdf5Reader reader(save_run(folder / "run.h5", vocab_size, recipe, *stream));
    reader.verify();
    return message_of<CheckpointError>([&] { check_loadable(reader); });
  };
  EXPECT_EQ(refusal(320, ""), "nothing was thrown");
  EXPECT_NE(refusal(64, "").find("model.vocab_size = 64 is smaller than the tokenizer's 257"),
            std::string::npos);
  EXPECT_NE(refusal(320, "[model]\nnum_layers = 1\n").find("data.text is empty"), std::string::npos);
  EXPECT_NE(refusal(320, "nonsense").find("(recipe)"), std::string::npos);
  const std::string huge =
      refusal(320,
              "[data]\ntext = [\"x\"]\n[model]\nnum_layers = 1000\nmodel_dim = 65536\n"
              "vocab_size = 16777216\nattention.num_heads = 64\n[train]\nmax_steps = 30\n");
  EXPECT_NE(huge.find("model/embedding is f32 [320, 8], expected f32 or bf16 [16777216, 65536]"),
            std::string::npos)
      << huge;
  EXPECT_LE(std::ranges::count(huge, '\n'), 25);
}

/// A copy in which one attribute has another value; the writer gives it valid digests.
template <class Value>
fs::path with_attribute(const fs::path& good, const fs::path& copy, std::string_view group,
                        std::string_view name, const Value& value, Stream& stream) {
  Hdf5Reader reader(good);
  Hdf5Writer writer(copy, stream, {});
  for (const ArchiveEntry& entry : reader.entries("")) {
    const Tensor tensor = Tensor::empty(entry.shape, entry.dtype, Device{});
    reader.tensor(entry.path, tensor, stream);
    writer.tensor(entry.path, tensor);
  }
  for (const std::string& path : reader.texts("")) writer.text(path, reader.text(path));
  const std::set<std::string_view> of_root{"format",      "format_version", "program",
                                           "created_utc", "complete",       "content_xxh128"};
  for (const std::string& path : reader.attributed(""))
    for (const auto& [own_name, own_value] : reader.attributes(path))
      if (!reader.has(path) && !of_root.contains(own_name) && (path != group || own_name != name))
        std::visit([&, &key = own_name](const auto& v) { writer.attribute(path, key, v); }, own_value);
  writer.attribute(group, name, value);
  writer.finish();
  return copy;
}

TEST_F(CheckpointTest, ValuesOutOfRangeAreRefusedBehindAValidDigestToo) {
  const fs::path good = save_run(folder / "run.h5", 320, "", *stream);
  const auto refusal = [&](std::string_view group, std::string_view name, const auto& value) {
    Hdf5Reader reader(with_attribute(good, folder / "copy.h5", group, name, value, *stream));
    reader.verify();
    return message_of<CheckpointError>([&] { check_loadable(reader); });
  };
  EXPECT_EQ(refusal("data", "cursor", int64_t{7}), "nothing was thrown");
  const auto expect = [](const std::string& actual, const std::string& part) {
    EXPECT_NE(actual.find(part), std::string::npos) << actual;
  };
  expect(refusal("data", "cursor", int64_t{-1}), "attribute cursor of data is -1, expected 0 to");
  expect(refusal("data", "cursor", int64_t{1} << 62), "attribute cursor of data is 4611686018427387904");
  expect(refusal("state", "step", int64_t{-1}), "attribute step of state is -1");
  expect(refusal("state", "step", int64_t{7}), "its step is 0 in the root and 7 in state");
  expect(refusal("state", "skipped", int64_t{1}), "attribute skipped of state is 1, expected 0 to 0");
  expect(refusal("", "step", int64_t{-1}), "attribute step of the root is -1");
  expect(refusal("", "tokens", int64_t{-5}), "attribute tokens of the root is -5");
  expect(refusal("env", "world_size", int64_t{0}), "attribute world_size of env is 0");
  expect(refusal("env", "deterministic", int64_t{2}), "attribute deterministic of env is 2");
  expect(refusal("tokenizer", "kind", std::string_view("symbols:100000000")),
         "the tokenizer is symbols:100000000");
  expect(refusal("data", "cursor", std::string_view("0")), "attribute cursor of data is not an integer");
}

// Before the vocabulary's size was kept, the kind of the tokenizer was the recipe's, whatever shards held.
TEST(OlderTokenizer, OfLargerShardsIsOneOfIds) {
  const std::unique_ptr<Stream> host = cpu_backend().make_stream();
  MemoryArchive older(*host);
  older.attribute("tokenizer", "kind", "bytes");
  older.text("tokenizer/definition", "");
  Recipe recipe;
  const auto name = [&](int64_t vocab_size) {
    recipe.model.vocab_size = vocab_size;
    return load_tokenizer(older, recipe)->name();
  };
  EXPECT_EQ(name(1000), "bytes");  // of text
  recipe.data.tokens = {"ids.bin"};
  EXPECT_EQ(name(320), "bytes");  // which is rounded up
  EXPECT_EQ(name(1000), "symbols:1000");
  const auto ids = make_symbol_tokenizer(1000);
  EXPECT_NO_THROW(TokenizerState(*ids).load(older, "tokenizer", *host));

  MemoryArchive newer(*host);
  TokenizerState(*make_byte_tokenizer()).save(newer, "tokenizer");
  EXPECT_EQ(load_tokenizer(newer, recipe)->name(), "bytes");
  EXPECT_THROW(TokenizerState(*ids).load(newer, "tokenizer", *host), CheckpointError);
}

TEST_F(CheckpointTest, InspectionListsEverythingAndNamesDamage) {
  SampleRun run(32);
  save(run, 5);
  const fs::path path = folder / checkpoint_name(5);
  const Inspection good = inspect_checkpoint(folder.path());
  EXPECT_EQ(good.problem, "");
  for (const char* part : {"/ @format = \"headway-checkpoint\"", "/ @step = 5", "/env @world_size = 1",
                           "/model/embedding/weight", "f32   [64, 32]", "intact", "/recipe", "6 tensors"})
    EXPECT_NE(good.text.find(part), std::string::npos) << part << " is not in\n" << good.text;
  EXPECT_EQ(good.text.find("DAMAGED"), std::string::npos);
  flip_byte(path, 0.5);
  const Inspection bad = inspect_checkpoint(path);
  EXPECT_NE(bad.problem.find("is damaged"), std::string::npos) << bad.problem;
  EXPECT_NE(bad.text.find("DAMAGED"), std::string::npos);
  EXPECT_NE(message_of<CheckpointError>([&] {
              inspect_checkpoint(folder / "absent.h5");
            }).find("absent.h5: cannot"),
            std::string::npos);
}

TEST_F(CheckpointTest, RanksAgreeOnSavingAndResuming) {
  run_as_threads(3, kTimeout_s, [&](Communicator& comm) {
    const std::unique_ptr<Stream> mine = cpu_backend().make_stream();
    SampleRun run(16);
    CheckpointFolder checkpoints(folder / "checkpoints", {.keep_last = 2}, comm, *mine);
    EXPECT_FALSE(checkpoints.load_newest(run.states(), kNoObjection));
    EXPECT_TRUE(checkpoints.open(0).empty());
    for (int64_t step = 1; step <= 3; ++step) {
      run.set_step(step);
      const SaveReport report = checkpoints.save(run.states(), run.info);
      EXPECT_TRUE(report.warnings.empty());
      EXPECT_GT(report.bytes, 0u);
    }
    SampleRun other(16);
    const std::optional<Resumption> newest = checkpoints.load_newest(other.states(), kNoObjection);
    ASSERT_TRUE(newest);
    EXPECT_TRUE(other.is_consistent(newest->info));
    EXPECT_EQ(other.model.step(), 3);
    EXPECT_TRUE(checkpoints.holds(newest->path));
    EXPECT_FALSE(checkpoints.holds(folder / checkpoint_name(3)));
  });
  EXPECT_EQ(list_checkpoints(folder / "checkpoints").size(), 2u);
  EXPECT_EQ(fs::read_symlink(folder / "checkpoints/latest"), checkpoint_name(3));
}

TEST_F(CheckpointTest, NoRankThrowsAlone) {
  SampleRun sample(16);
  save(sample, 1);
  run_as_threads(3, kTimeout_s, [&](Communicator& comm) {
    const std::unique_ptr<Stream> mine = cpu_backend().make_stream();
    // Only rank 2 expects another shape.
    SampleRun run(comm.rank() == 2 ? 17 : 16);
    CheckpointFolder checkpoints(folder.path(), {}, comm, *mine);
    const std::string message = message_of<CheckpointError>(
        [&] { checkpoints.load(folder / checkpoint_name(1), run.states(), kNoObjection); });
    EXPECT_EQ(message.find("rank 2: "), 0u) << message;
    // Only rank 0 writes, and cannot.
    run.set_step(2);
    const fs::path blocked = folder / "blocked";
    CheckpointFolder other(blocked, {}, comm, *mine);
    other.open(0);
    if (comm.rank() == 0) fs::remove(blocked);
    EXPECT_NE(message_of<IoError>([&] { other.save(run.states(), run.info); }).find("No such file"),
              std::string::npos);
  });
}

}  // namespace
}  // namespace headway
