// What a golden case says (archive_from_text.h): its layer is built, run forward and backward, and compared.
#include "tests/fuzz/archive_from_text.h"
#include "tests/fuzz/fuzz_target.h"
#include "trainers/parity.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headway;
  static const std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  MemoryArchive archive(*stream);
  read_archive(as_text(data, size), archive);
  is_accepted([&] { run_parity(archive, {}).worst(); });
  return 0;
}
