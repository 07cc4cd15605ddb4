// The bytes of a checkpoint as `eval`, `generate` and a run that goes on read them: whatever they are, HDF5
// sees only what its own checksums and our checks let through.
#include "core/io/hdf5_archive.h"
#include "core/io/hdf5_handle.h"
#include "tests/fuzz/fuzz_target.h"
#include "trainers/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headway;
  prepare_hdf5();
  const std::filesystem::path path = scratch_folder() / "checkpoint.h5";
  write_file(path, as_text(data, size));
  is_accepted([&] {
    Hdf5Reader reader(path);
    reader.verify();
    check_loadable(reader);
  });
  return 0;
}
