// A run.json that a run finds in its folder when it goes on. What is a record must be one again behind the
// new attempt.
#include "trainers/run_record.h"

#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headway;
  const std::filesystem::path& folder = scratch_folder().path();
  write_file(folder / kRunRecordName, as_text(data, size));
  RunRecord::status_of(folder);
  const bool is_record = RunRecord::problem_of(folder).empty();
  const bool is_accepted_ = is_accepted([&] {
    RunRecord record(folder, {.name = "run", .data = {}, .device = "CPU"});
    record.end(ExitCode::ok, 1);
  });
  if (is_record != is_accepted_) throw std::logic_error("what is a record and what is accepted differ");
  if (is_record && RunRecord::status_of(folder) != "finished") throw std::logic_error("the record was lost");
  return 0;
}
