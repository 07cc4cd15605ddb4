// Inspection of files from strangers: whatever the bytes are, this process goes on and says one sentence.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>

#include "core/error.h"
#include "tests/support/scratch_folder.h"
#include "trainers/inspect_checkpoint.h"

namespace headway {
namespace {

// Without checksums over metadata, as h5py writes by default: edits reach the library's parser.
constexpr const char* kMakeForeign =
    "import h5py, numpy as np, sys\n"
    "with h5py.File(sys.argv[1], 'w') as file:\n"
    "    file.attrs['title'] = np.bytes_('weights\\x1b[31m')\n"
    "    for i in range(4):\n"
    "        group = file.create_group('layer_%d' % i)\n"
    "        group['weight'] = np.arange(12, dtype=np.float32).reshape(3, 4)\n"
    "        group.create_dataset('chunked', data=np.arange(64, dtype=np.int64), chunks=(16,), "
    "fletcher32=True)\n"
    "        group.attrs['kind'] = 'variable-length text'\n";

class InspectTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("/usr/bin/python3 -c 'import h5py' 2>/dev/null") != 0)
      GTEST_SKIP() << "/usr/bin/python3 has no h5py";
    std::ofstream(folder / "make.py") << kMakeForeign;
    const std::string command =
        fmt::format("/usr/bin/python3 {} {}", (folder / "make.py").string(), path.string());
    ASSERT_EQ(std::system(command.c_str()), 0);
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }

  ScratchFolder folder;
  std::filesystem::path path = folder / "foreign.h5";
  std::string bytes;
};

TEST_F(InspectTest, ForeignFilesAreListedAndNamedUnusable) {
  const Inspection inspection = inspect_checkpoint(path);
  EXPECT_EQ(inspection.problem,
            path.string() + ": not a Headway checkpoint (its HDF5 superblock is of another version)");
  for (const char* part : {"/layer_3/weight", "f32   [3, 4]", "no digest", "8 tensors, 304 values",
                           "/ @title = \"weights\\x1b[31m\""})
    EXPECT_NE(inspection.text.find(part), std::string::npos) << part << " is not in\n" << inspection.text;
}

TEST_F(InspectTest, NoBytesEndThisProcess) {
  constexpr int kCases = 300;
  std::mt19937 random(11);
  int listed = 0, refused = 0, crashed = 0, too_long = 0;
  for (int i = 0; i < kCases; ++i) {
    std::string edited = bytes;
    const unsigned edits = 1 + random() % 8;
    for (unsigned e = 0; e < edits; ++e) edited[random() % edited.size()] = static_cast<char>(random());
    std::ofstream(path, std::ios::binary).write(edited.data(), static_cast<std::streamsize>(edited.size()));
    try {
      (void)inspect_checkpoint(path);
      ++listed;
    } catch (const CheckpointError& error) {
      const std::string why = error.what();
      EXPECT_TRUE(why.starts_with(path.string() + ": ")) << why;
      EXPECT_EQ(why.find('\n'), std::string::npos) << why;
      if (why.find("crashed") != std::string::npos)
        ++crashed;
      else if (why.find("longer than is allowed") != std::string::npos)
        ++too_long;
      else
        ++refused;
    }
  }
  std::cout << kCases << " edited files: " << listed << " listed, " << refused << " refused, " << crashed
            << " crashed their child, " << too_long << " ran out of time\n";
  EXPECT_EQ(listed + refused + crashed + too_long, kCases);
  EXPECT_GT(listed, 0);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace headway
