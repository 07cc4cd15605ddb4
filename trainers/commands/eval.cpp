// headway eval CHECKPOINT
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "core/comm/agreement.h"
#include "core/failure.h"
#include "core/io/atomic_file.h"
#include "trainers/commands/command.h"
#include "trainers/commands/loaded_model.h"
#include "trainers/config/settings.h"
#include "trainers/evaluator.h"
#include "trainers/run_on_ranks.h"
#include "trainers/run_record.h"

namespace headway {
namespace {

// A checkpoint from elsewhere names files of this machine that its author chose. Inside a run's folder it is
// the user's own.
void require_known_data(const LoadedModel& loaded, const std::vector<std::string>& overrides) {
  namespace fs = std::filesystem;
  Settings given;
  for (const std::string& argument : overrides) add_override(given, argument);
  const bool is_asked = given.contains("data.text") || given.contains("data.tokens");
  if (is_asked || loaded.recipe.data.is_task()) return;
  const fs::path source = fs::absolute(loaded.source);
  for (fs::path folder = source.parent_path(); folder != folder.root_path(); folder = folder.parent_path())
    if (RunRecord::problem_of(folder).empty()) return;
  throw ConfigError(
      fmt::format("{} lies in no run's folder, so the files that its recipe names are not read unasked: "
                  "expected --text FILES or data.tokens=[...]",
                  loaded.source));
}

/// A row for each place in a sequence, the first of which sees one token. Where no target stands at a place,
/// its loss is left empty.
std::string positions_csv(const std::vector<PositionLoss>& positions) {
  std::string text = "position,loss,tokens\n";
  for (size_t i = 0; i < positions.size(); ++i)
    text += fmt::format("{},{},{}\n", i,
                        positions[i].num_tokens > 0 ? fmt::format("{:.6f}", positions[i].loss) : "",
                        positions[i].num_tokens);
  return text;
}

/// What --text stands for. Overrides that the user gives come after them and count.
std::vector<std::string> all_of_text(const std::vector<std::string>& files) {
  std::vector<std::string> quoted;
  for (const std::string& file : files) quoted.push_back(toml_string(file));
  return {fmt::format("data.text=[{}]", fmt::join(quoted, ", ")),
          "data.tokens=[]",
          "data.task.kind=none",
          "data.split=auto",
          "data.val_fraction=1",
          "data.max_bytes=0",
          "eval.final_tokens=0"};
}

/// What the recipe's last evaluation reads; of a best checkpoint, what it was chosen by. A limit that the
/// user gives counts.
int64_t tokens_to_read(const LoadedModel& loaded) {
  const EvalRecipe& eval = loaded.recipe.eval;
  const auto is_given = [&](const char* key) { return loaded.recipe.origins.at(key) == kCommandLineOrigin; };
  if (is_given("eval.tokens")) return eval.tokens;
  return loaded.val_loss && !is_given("eval.final_tokens") ? eval.tokens : eval.final_tokens;
}

Action add_options(OptionList verb) {
  struct Options {
    CheckpointArgument checkpoint;
    std::string device = "auto", by_position;
    std::vector<std::string> text;
    std::vector<std::string> overrides;
  };
  const auto options = std::make_shared<Options>();
  verb.add_footer(
      "What the run's last evaluation reads is read: the whole validation split where the recipe does not\n"
      "limit it by eval.final_tokens; eval.tokens=N limits it too. Of a best checkpoint the tokens are read\n"
      "that it was chosen by, the recipe's eval.tokens, so that the same loss is printed. A note says where\n"
      "something else is read than the run held out.\n"
      "A checkpoint that lies in no run's folder needs the data: --text, or data.tokens=[...].\n"
      "Examples:\n"
      "  headway eval runs/quickstart --by-position positions.csv\n"
      "  headway eval runs/quickstart\n"
      "  headway eval runs/quickstart --best\n"
      "  headway eval runs/quickstart --text book.txt '/srv/texts/**'\n"
      "  mpirun -np 2 headway eval runs/quickstart/checkpoints/step-00000400.h5 "
      "'data.text=[/usr/share/doc/**]'");
  options->checkpoint.add_to(verb);
  verb.add_overrides(options->overrides);
  verb.add("--text", options->text, "evaluate all of these files instead: paths with *, ? and **");
  verb.add("--by-position", options->by_position,
           "CSV file to write with the mean loss at each position of a sequence");
  verb.add("--device", options->device, "auto, cpu, cuda or cuda:<index>");
  return [options] {
    constexpr double kTimeout = 600;
    return run_on_ranks(options->device, kTimeout, [&](Communicator& comm, Stream& stream) {
      LoadedModel loaded;
      std::unique_ptr<ExampleSource> examples;
      agree(comm, [&] {
        std::vector<std::string> overrides = options->overrides;
        if (!options->text.empty()) {
          const std::vector<std::string> text = all_of_text(options->text);
          overrides.insert(overrides.begin(), text.begin(), text.end());
        }
        loaded = load_model(options->checkpoint.resolve(), overrides, stream);
        require_known_data(loaded, overrides);
      });
      const auto documents = open_documents(loaded.recipe.data, *loaded.tokenizer, comm);
      agree(comm, [&] {
        examples = ExampleSource::open(loaded.recipe.data, *loaded.tokenizer, loaded.recipe.run.seed,
                                       loaded.recipe.model.vocab_size, documents);
      });
      const Evaluation result = evaluate(*loaded.model, *examples,
                                         {.tokens = tokens_to_read(loaded),
                                          .seq_len = loaded.recipe.data.seq_len,
                                          .by_position = !options->by_position.empty()},
                                         comm, stream);
      agree(comm, [&] {
        if (comm.rank() == 0 && !options->by_position.empty())
          write_file_atomically(options->by_position, positions_csv(result.positions));
      });
      if (comm.rank() == 0) {
        if (!loaded.note.empty()) print_note(loaded.note);
        const std::string difference =
            held_out_difference(loaded.source, loaded.trained_on, examples->digests());
        if (!difference.empty()) print_note("note: " + difference);
        fmt::print("{} (step {}): val/loss {:.6f} nats per token, val/ppl {:.4f}", loaded.source, loaded.step,
                   result.loss, std::exp(result.loss));
        if (result.bits_per_byte > 0) fmt::print(", val/bpb {:.6f} bits per byte", result.bits_per_byte);
        if (examples->asks_questions())
          fmt::print(", val/accuracy {:.6f}, val/exact_match {:.6f}", result.accuracy, result.exact_match);
        fmt::print(", over {} tokens\n", result.num_tokens);
      }
      return ExitCode::ok;
    });
  };
}

[[maybe_unused]] const bool is_registered = register_command(
    {.name = "eval", .summary = "Measure the validation loss of a checkpoint", .add_options = add_options});

}  // namespace
}  // namespace headway
