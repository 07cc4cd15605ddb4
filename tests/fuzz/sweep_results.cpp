// What a report reads of an arm, between zero bytes: run.json, recipe.resolved.toml, metrics.jsonl. The arm
// that it is compared with is the input of an earlier call.
#include "trainers/report/sweep_results.h"

#include "tests/fuzz/fuzz_target.h"
#include "trainers/report.h"

namespace headway {
namespace {

constexpr const char* kSweep =
    "folder = \"sweeps\"\n[runs.one]\nrecipe = \"base.toml\"\n[runs.two]\nrecipe = \"base.toml\"\n";

const Sweep& sweep() {
  static const Sweep loaded = [] {
    std::filesystem::current_path(scratch_folder().path());
    write_file("base.toml", "data.text = [\"*.txt\"]\ntrain.max_steps = 9\n[schedule]\nwarmup_steps = 1\n");
    write_file("sweep.toml", kSweep);
    Sweep found = load_sweep("sweep.toml");
    for (const Arm& arm : found.arms) std::filesystem::create_directories(found.run_folder(arm));
    return found;
  }();
  return loaded;
}

void read_results(std::string_view input) {
  std::vector<std::string> files = pieces(input);
  files.resize(6);
  for (size_t i = 0; i < sweep().arms.size(); ++i) {
    const std::filesystem::path folder = sweep().run_folder(sweep().arms[i]);
    write_file(folder / "run.json", files[3 * i]);
    write_file(folder / "recipe.resolved.toml", files[3 * i + 1]);
    write_file(folder / "metrics.jsonl", files[3 * i + 2]);
  }
  const SweepResults results(sweep());
  write_report(results);
  comparison_text(results);
}

}  // namespace
}  // namespace headway

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  headway::is_accepted([&] { headway::read_results(headway::as_text(data, size)); });
  return 0;
}
