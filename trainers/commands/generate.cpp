// headway generate CHECKPOINT
#include <fmt/format.h>

#include <cstdio>
#include <optional>

#include "core/backend.h"
#include "trainers/commands/command.h"
#include "trainers/commands/loaded_model.h"
#include "trainers/generator.h"

namespace headway {

void add_generate_command(CLI::App& app, Action& action) {
  struct Options {
    std::string checkpoint, device = "auto";
    std::optional<std::string> prompt;
    std::optional<int64_t> tokens, top_k;
    std::optional<double> temperature;
    uint64_t seed = 1;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* generate_app = app.add_subcommand("generate", "Continue a text with a checkpoint");
  generate_app->footer("Example:\n  headway generate runs/quickstart --prompt '#include <' --tokens 200");
  generate_app->add_option("checkpoint", options->checkpoint, "checkpoint, weights file or run folder")
      ->required();
  generate_app->add_option("--prompt", options->prompt, "text to continue");
  generate_app->add_option("--tokens", options->tokens, "length of the continuation")
      ->check(CLI::Range(1, 1000000));
  generate_app->add_option("--temperature", options->temperature, "0 = always the likeliest token")
      ->check(CLI::Range(0.0, 100.0));
  generate_app->add_option("--top-k", options->top_k, "draw among this many likeliest tokens; 0 = all")
      ->check(CLI::NonNegativeNumber);
  generate_app->add_option("--seed", options->seed, "the same seed gives the same text");
  generate_app->add_option("--device", options->device, "auto, cpu, cuda or cuda:<index>");
  generate_app->callback([options, &action] {
    action = [options] {
      const auto stream = backend(Device::parse(options->device)).make_stream();
      LoadedModel loaded = load_model(options->checkpoint, {}, *stream);
      GenerateRecipe recipe = loaded.recipe.generate;
      recipe.prompt = options->prompt.value_or(recipe.prompt);
      recipe.tokens = options->tokens.value_or(recipe.tokens);
      recipe.temperature = options->temperature.value_or(recipe.temperature);
      recipe.top_k = options->top_k.value_or(recipe.top_k);
      fmt::print("{}", recipe.prompt);
      generate(*loaded.model, *loaded.tokenizer, recipe, options->seed, *stream,
               [](const std::string& piece) {
                 fmt::print("{}", piece);
                 std::fflush(stdout);
               });
      fmt::print("\n");
      return ExitCode::ok;
    };
  });
}

}  // namespace headway
