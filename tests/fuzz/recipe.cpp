// A recipe and, after zero bytes, arguments of the command line. What is accepted must read back equal from
// the recipe.resolved.toml that a run would write.
#include "trainers/recipe.h"

#include "tests/fuzz/fuzz_target.h"
#include "trainers/config/field_writer.h"

namespace headway {
namespace {

void read_recipe(std::string_view input) {
  const std::vector<std::string> all = pieces(input);
  Recipe recipe = parse_recipe(all[0], "recipe.toml", {all.begin() + 1, all.end()});
  recipe.check_start();
  recipe.resolve(recipe.data.make_tokenizer()->vocab_size());
  recipe.accumulation_steps(1);
  const auto values = [](Recipe& r) { return field_values([&r](FieldVisitor& v) { r.describe(v); }); };
  Recipe again = parse_recipe(recipe.to_toml(), "recipe.resolved.toml", {});
  if (values(again) != values(recipe)) throw std::logic_error("the resolved recipe reads back differently");
}

}  // namespace
}  // namespace headway

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  headway::is_accepted([&] { headway::read_recipe(headway::as_text(data, size)); });
  return 0;
}
