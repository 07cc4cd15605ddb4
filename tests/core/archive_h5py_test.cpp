// The reader and the writer against another user of the HDF5 library, through h5py.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/backend.h"
#include "core/io/hdf5_archive.h"
#include "tests/support/scratch_folder.h"

namespace headway {
namespace {

int python(const std::string& arguments) {
  return std::system(fmt::format("/usr/bin/python3 {}", arguments).c_str());
}

class ArchiveH5pyTest : public testing::Test {
 protected:
  void SetUp() override {
    if (python("-c 'import h5py' 2>/dev/null") != 0) GTEST_SKIP() << "/usr/bin/python3 has no h5py";
  }

  void write(Hdf5Layout layout) {
    std::vector<float> values;
    std::vector<bf16> rounded;
    for (int i = 0; i < 15; ++i)
      values.push_back(static_cast<float>(i - 7) / 4), rounded.emplace_back(values.back());
    const std::vector<bf16> special{bf16(-std::numeric_limits<float>::infinity()),
                                    bf16(std::numeric_limits<float>::quiet_NaN()), bf16(0.0f)};
    Hdf5Writer writer(path, *stream, {.layout = layout});
    writer.tensor("model/f32", Tensor::from<float>(values, {3, 5}, *stream));
    writer.tensor("model/bf16", Tensor::from<bf16>(rounded, {3, 5}, *stream));
    writer.tensor("model/special", Tensor::from<bf16>(special, {3}, *stream));
    writer.text("recipe", "[model]\n");
    writer.attribute("state", "step", int64_t{120});
    writer.finish();
  }

  std::string refusal_after(const std::string& kind) {
    write(Hdf5Layout::contiguous);
    const std::string command =
        fmt::format("{}/archive_files.py spoil {} {}", HEADWAY_TEST_SOURCES, path.string(), kind);
    if (python(command) != 0) return "the file could not be made";
    try {
      Hdf5Reader reader(path);
      reader.verify();
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "accepted";
  }

  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  ScratchFolder folder;
  std::filesystem::path path = folder / "archive.h5";
};

TEST_F(ArchiveH5pyTest, ReadsOurFilesWithNoHelp) {
  for (const Hdf5Layout layout : {Hdf5Layout::contiguous, Hdf5Layout::checksummed}) {
    write(layout);
    EXPECT_EQ(python(fmt::format("{}/archive_files.py read {}", HEADWAY_TEST_SOURCES, path.string())), 0);
  }
}

TEST_F(ArchiveH5pyTest, FilesChangedByOthersAreRefusedForTheRightReason) {
  const std::pair<const char*, const char*> cases[] = {
      {"foreign", "not a Headway checkpoint (the root has no attribute format)"},
      {"old_foreign", "not a Headway checkpoint (its HDF5 superblock is of another version)"},
      {"soft_link", "model/evil is a soft link"},
      {"external_link", "model/evil is an external or user-defined link"},
      {"second_hard_link", "linked 2 times"},
      {"cycle", "linked 2 times"},
      {"external_storage", "model/evil keeps its values in another file"},
      {"virtual", "model/evil has a virtual layout"},
      {"shape_bomb", "model/evil declares 4398046511104 bytes"},
      {"overflow", "model/evil declares more bytes than any checkpoint has"},
      {"unwritten", "model/evil declares 4194304 bytes"},
      {"gzip", "model/evil uses HDF5 filter 1"},
      {"shuffle", "model/evil uses HDF5 filter 2"},
      {"compact", "model/evil has a compact or unknown layout"},
      {"compound", "model/evil has an element type that is not supported"},
      {"variable_string", "model/evil has an element type that is not supported"},
      {"big_endian", "model/evil has an element type that is not supported"},
      {"half", "model/evil has an element type that is not supported"},
      {"null_space", "model/evil has no simple shape"},
      {"named_type", "model/evil is neither a group nor a dataset"},
      {"too_many_dimensions", "model/evil has 7 dimensions"},
      {"deep", "groups are nested deeper than 32"},
      {"many_attributes", "model claims 1001 attributes"},
      {"array_attribute", "attribute evil of model is not an integer"},
      {"no_digest", "model/evil has no digest"},
      {"renamed", "the list of datasets does not match its digest"},
      {"dropped", "the list of datasets does not match its digest"},
      {"added", "the list of datasets does not match its digest"},
      {"changed_value", "model/f32 is damaged"},
      {"wrong_dtype_attribute", "its attribute dtype says \"float64\""},
      {"incomplete", "the file was never completed"},
      {"changed_attribute", "the list of datasets does not match its digest"},
      {"older_format", "the list of datasets does not match its digest"},
      {"newer_format", "format version 3 is not known to this build"},
  };
  for (const auto& [kind, reason] : cases) {
    const std::string refusal = refusal_after(kind);
    EXPECT_NE(refusal.find(reason), std::string::npos) << kind << ": " << refusal;
    EXPECT_EQ(refusal.find('\n'), std::string::npos) << kind << ": " << refusal;
  }
}

}  // namespace
}  // namespace headway
