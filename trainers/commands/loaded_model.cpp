#include "trainers/commands/loaded_model.h"

#include "trainers/checkpoint.h"
#include "trainers/checkpoint_folder.h"
#include "trainers/states.h"

namespace headway {

LoadedModel load_model(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                       Stream& stream) {
  LoadedModel loaded;
  const auto reader = open_checkpoint(path);
  loaded.source = reader->source();
  const RunInfo info = read_run_info(*reader);
  loaded.step = info.step;
  loaded.recipe = parse_recipe(info.recipe, loaded.source + " (recipe)", overrides);
  loaded.tokenizer = load_tokenizer(*reader);
  loaded.model = std::make_unique<Model>(loaded.recipe.model);
  loaded.model->materialize(DType::f32, 0, stream);
  ModelState state(*loaded.model);
  load_weights(loaded.source, state, stream);
  return loaded;
}

}  // namespace headway
