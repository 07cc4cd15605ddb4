// A sweep file beside a recipe base.toml.
#include "trainers/sweep.h"

#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headway;
  const std::filesystem::path path = scratch_folder() / "sweep.toml";
  write_file(scratch_folder() / "base.toml",
             "data.text = [\"*.txt\"]\ntrain.max_steps = 9\n[schedule]\nwarmup_steps = 1\n");
  write_file(path, as_text(data, size));
  is_accepted([&] { load_sweep(path); });
  return 0;
}
