// A metrics.jsonl that a run finds when it goes on: rows of later steps go, and all others stay.
#include "tests/fuzz/fuzz_target.h"
#include "trainers/metrics.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headway;
  const std::filesystem::path& folder = scratch_folder().path();
  write_file(folder / "metrics.jsonl", as_text(data, size));
  is_accepted([&] {
    MetricsLog log(folder, 3);
    MetricRow row;
    row.add("step", 4);
    log.write(row);
    if (log.last_step_with("step") != 4) throw std::logic_error("the row that was written is not the last");
    log.write_csv();
  });
  return 0;
}
