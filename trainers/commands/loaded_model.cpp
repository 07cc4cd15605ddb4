#include "trainers/commands/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "trainers/checkpoint.h"
#include "trainers/checkpoint_folder.h"
#include "trainers/config/settings.h"
#include "trainers/states.h"

namespace headway {
namespace {

// The command line writes texts without quotes.
bool is_same(const Setting& a, const Setting& b) {
  return a.text == b.text && std::ranges::equal(a.items, b.items, {}, &Setting::text, &Setting::text);
}

// What was trained is fixed; the data and how it is read, measured and generated from are free.
void check_overrides(const RunInfo& info, const std::string& source,
                     const std::vector<std::string>& overrides) {
  const Settings stored = parse_toml(info.recipe, source + " (recipe)");
  Settings given;
  for (const std::string& argument : overrides) add_override(given, argument);
  std::vector<std::string> changes;
  for (const auto& [key, setting] : given) {
    constexpr std::string_view kFree[] = {"data.", "eval.", "generate.", "train.micro_batch", "run.seed"};
    if (std::ranges::any_of(kFree, [&key = key](std::string_view free) { return key.starts_with(free); }))
      continue;
    const auto old = stored.find(key);
    if (key.starts_with("model.") && (old == stored.end() || !is_same(old->second, setting)))
      changes.push_back(fmt::format("{}: {} -> {}", key,
                                    old == stored.end() ? "(absent)" : old->second.shown(), setting.shown()));
    HEADWAY_CHECK(
        key.starts_with("model.") || old == stored.end(), ConfigError,
        fmt::format("{} = {} has no effect on a model that is trained: expected keys of data, eval or "
                    "generate",
                    key, setting.shown()));
  }
  HEADWAY_CHECK(changes.empty(), CheckpointError,
                fmt::format("{}: its model cannot be changed:\n  {}", source, fmt::join(changes, "\n  ")));
}

}  // namespace

LoadedModel load_model(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                       Stream& stream) {
  LoadedModel loaded;
  const auto reader = open_checkpoint(path, check_loadable);
  loaded.source = reader->source();
  const RunInfo info = read_run_info(*reader);
  loaded.step = info.step;
  loaded.trained_on = info.trained_on;
  loaded.val_loss = info.val_loss;
  check_overrides(info, loaded.source, overrides);
  loaded.recipe = parse_stored_recipe(info.recipe, loaded.source + " (recipe)", overrides);
  loaded.note = age_note(info, loaded.source);
  loaded.tokenizer = load_tokenizer(*reader, stored_recipe(info, loaded.source));
  loaded.recipe.resolve(loaded.tokenizer->vocab_size());
  loaded.model = std::make_unique<Model>(loaded.recipe.model);
  const bool is_bf16 = loaded.recipe.train.dtype == "bf16" && stream.device().kind == Device::Kind::cuda;
  loaded.model->materialize(is_bf16 ? DType::bf16 : DType::f32, 0, stream);
  ModelState state(*loaded.model);
  load_weights(*reader, state, stream);
  return loaded;
}

}  // namespace headway
