// What a checkpoint says behind valid digests (archive_from_text.h). What is found loadable must load.
#include "layers/model.h"
#include "tests/fuzz/archive_from_text.h"
#include "tests/fuzz/fuzz_target.h"
#include "trainers/checkpoint.h"
#include "trainers/states.h"

namespace headway {
namespace {

void read_checkpoint(ArchiveReader& archive, Stream& stream) {
  check_loadable(archive);
  const RunInfo info = read_run_info(archive);
  age_note(info, archive.source());
  Recipe recipe = stored_recipe(info, archive.source());
  recipe.resolve(load_tokenizer(archive, recipe)->vocab_size());
  Model model(recipe.model);
  model.materialize(DType::f32, 0, stream);
  ModelState state(model);
  load_weights(archive, state, stream);
}

}  // namespace
}  // namespace headway

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headway;
  static const std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  MemoryArchive archive(*stream);
  read_archive(as_text(data, size), archive);
  is_accepted([&] { read_checkpoint(archive, *stream); });
  return 0;
}
