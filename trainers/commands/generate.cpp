// headway generate CHECKPOINT
#include <fmt/format.h>

#include <cstdio>
#include <optional>

#include "core/backend.h"
#include "core/failure.h"
#include "trainers/commands/command.h"
#include "trainers/commands/loaded_model.h"
#include "trainers/generator.h"

namespace headway {
namespace {

Action add_options(OptionList verb) {
  struct Options {
    CheckpointArgument checkpoint;
    std::string device = "auto";
    std::optional<std::string> prompt;
    std::optional<int64_t> tokens, top_k;
    std::optional<double> temperature;
    int64_t seed = 1;
  };
  const auto options = std::make_shared<Options>();
  verb.add_footer("Example:\n  headway generate runs/quickstart --prompt '#include <' --tokens 200");
  options->checkpoint.add_to(verb);
  verb.add("--prompt", options->prompt,
           "text to continue; token ids with spaces between where the tokens have no known text");
  verb.add("--tokens", options->tokens, "length of the continuation").integer_from(1, 1'000'000);
  verb.add("--temperature", options->temperature, "0 = always the likeliest token").number_from(0, 100);
  verb.add("--top-k", options->top_k, "draw among this many likeliest tokens; 0 = all")
      .integer_from(0, 1'000'000'000);
  verb.add("--seed", options->seed, "the same seed gives the same text").integer_from(0, INT64_MAX);
  verb.add("--device", options->device, "auto, cpu, cuda or cuda:<index>");
  return [options] {
    const auto stream = backend(Device::parse(options->device)).make_stream();
    LoadedModel loaded = load_model(options->checkpoint.resolve(), {}, *stream);
    if (!loaded.note.empty()) print_note(loaded.note);
    GenerateRecipe recipe = loaded.recipe.generate;
    recipe.prompt = options->prompt.value_or(recipe.prompt);
    recipe.tokens = options->tokens.value_or(recipe.tokens);
    recipe.temperature = options->temperature.value_or(recipe.temperature);
    recipe.top_k = options->top_k.value_or(recipe.top_k);
    if (const std::string note = unknown_text_note(loaded.recipe.data, *loaded.tokenizer); !note.empty())
      print_note(note);
    check_prompt(loaded.model->config(), *loaded.tokenizer, recipe);
    fmt::print("{}", recipe.prompt);
    const GeneratedText generated =
        generate(*loaded.model, *loaded.tokenizer, recipe, static_cast<uint64_t>(options->seed), *stream,
                 [](const std::string& piece) {
                   fmt::print("{}", piece);
                   std::fflush(stdout);
                 });
    fmt::print("\n");
    if (generated.ended_at_last_position)
      print_note(fmt::format("the text ends at the last of the model's {} positions",
                             loaded.recipe.model.max_seq_len));
    return ExitCode::ok;
  };
}

[[maybe_unused]] const bool is_registered = register_command(
    {.name = "generate", .summary = "Continue a text with a checkpoint", .add_options = add_options});

}  // namespace
}  // namespace headway
