#include "core/io/archive.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "core/io/digest.h"
#include "core/io/hdf5_archive.h"
#include "core/io/memory_archive.h"
#include "core/io/outline_writer.h"
#include "tests/core/sample_archive.h"
#include "tests/support/scratch_folder.h"

namespace headway {
namespace {

constexpr std::string_view kRootAttributes[] = {"format",   "format_version", "program", "created_utc",
                                                "complete", "content_xxh128", "dtype",   "xxh3"};

class ArchiveTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  ScratchFolder folder;

  std::filesystem::path write(const std::string& name, Hdf5Layout layout,
                              std::string_view format = kCheckpointFormat) {
    const std::filesystem::path path = folder / name;
    Hdf5Writer writer(path, *stream, {.format = format, .layout = layout});
    write_sample(writer);
    writer.finish();
    return path;
  }
  std::string refusal(const std::function<void()>& f) {
    try {
      f();
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "nothing was refused";
  }
};

TEST_F(ArchiveTest, EveryDtypeComesBackBitForBit) {
  MemoryArchive memory(*stream);
  write_sample(memory);
  for (const Hdf5Layout layout : {Hdf5Layout::contiguous, Hdf5Layout::checksummed}) {
    Hdf5Reader file(write("sample.h5", layout));
    file.verify();
    EXPECT_EQ(file.entries("model").size(), 30u);
    EXPECT_EQ(differences(memory, file, kRootAttributes), std::vector<std::string>{});
  }
}

TEST_F(ArchiveTest, ChunksLargerThanOneComeBackBitForBit) {
  const Tensor big =
      random_bits_tensor({3, 700, 700}, DType::bf16, 3);  // 2.9 MB: several chunks, the last partial
  {
    Hdf5Writer writer(folder / "big.h5", *stream, {.layout = Hdf5Layout::checksummed});
    writer.tensor("model/big", big);
    writer.finish();
  }
  Hdf5Reader reader(folder / "big.h5");
  const Tensor back = Tensor::empty(big.shape(), DType::bf16, Device{});
  reader.tensor("model/big", back, *stream);
  EXPECT_EQ(std::memcmp(back.raw(), big.raw(), big.bytes()), 0);
}

TEST_F(ArchiveTest, DifferencesAreNamed) {
  MemoryArchive a(*stream), b(*stream);
  write_sample(a);
  write_sample(b);
  EXPECT_TRUE(differences(a, b, {}).empty());
  b.tensor("model/f32/vector", random_bits_tensor({31}, DType::f32, 99));
  b.tensor("model/f32/six", random_bits_tensor({3}, DType::f32, 99));
  b.tensor("more", random_bits_tensor({3}, DType::f32, 99));
  b.text("recipe", "other");
  b.attribute("state", "step", int64_t{6});
  EXPECT_EQ(
      differences(a, b, {}),
      (std::vector<std::string>{
          "tensor more is only in memory", "tensor model/f32/six is f32 [1, 2, 3, 1, 2, 3] and f32 [3]",
          "tensor model/f32/vector has other bits", "text recipe differs", "attributes of state differ"}));
}

TEST_F(ArchiveTest, ValuesAreFoundByGroupAndName) {
  Hdf5Reader reader(write("sample.h5", Hdf5Layout::contiguous));
  EXPECT_EQ(reader.entries("model/f3").size(), 0u) << "a group is not a prefix of a name";
  EXPECT_EQ(reader.entries("model/f32").size(), 5u);
  EXPECT_EQ(reader.texts(""), (std::vector<std::string>{"recipe", "tokenizer/merges"}));
  EXPECT_EQ(reader.text("recipe"), "[model]\nnum_layers = 2  # \xce\xbb\n");
  EXPECT_EQ(reader.text("tokenizer/merges"), "");
  EXPECT_EQ(reader.integer("state", "step"), -5);
  EXPECT_EQ(reader.number("state", "loss"), 0.1);
  EXPECT_EQ(reader.string("state", "nothing"), "");
  EXPECT_EQ(reader.integer("env", "value_19"), 19);
  EXPECT_EQ(reader.string("model/bf16/vector", "dtype"), "bfloat16");
  EXPECT_EQ(reader.string("", "format"), "headway-checkpoint");
  EXPECT_EQ(reader.integer("", "complete"), 1);
  EXPECT_FALSE(reader.has_attribute("state", "steps"));
}

TEST_F(ArchiveTest, WrongRequestsNameWhatWasExpected) {
  const std::filesystem::path path = write("sample.h5", Hdf5Layout::contiguous);
  Hdf5Reader reader(path);
  const Tensor wrong = Tensor::empty({7, 13}, DType::f32, Device{});
  EXPECT_EQ(refusal([&] { reader.tensor("model/f32/matrix.weight", wrong, *stream); }),
            path.string() + ": model/f32/matrix.weight is f32 [13, 7], expected f32 [7, 13]");
  EXPECT_EQ(refusal([&] { reader.tensor("model/other", wrong, *stream); }),
            path.string() + ": there is no model/other");
  EXPECT_EQ(refusal([&] { reader.integer("state", "loss"); }),
            path.string() + ": attribute loss of state is not an integer");
  EXPECT_EQ(refusal([&] { reader.integer("state", "steps"); }),
            path.string() + ": state has no attribute steps");
}

TEST_F(ArchiveTest, DigestDependsOnContentAndNotOnLayoutOrTime) {
  Hdf5Reader a(write("a.h5", Hdf5Layout::contiguous)),
      b(write("b.h5", Hdf5Layout::checksummed, kWeightsFormat));
  EXPECT_EQ(a.digest(""), b.digest(""));
  EXPECT_EQ(a.digest("model"), b.digest("model"));
  EXPECT_NE(a.digest("model"), a.digest(""));
}

TEST_F(ArchiveTest, DigestsAreThoseOfXxhsum) {
  // Digests of no bytes at all, as `xxhsum -H3` and `xxhsum -H2` print them.
  EXPECT_EQ(xxh3_64("", 0), "2d06800538d394c2");
  EXPECT_EQ(xxh3_128("", 0), "99aa06d3014798d86001c324468d497f");
}

TEST_F(ArchiveTest, OverlongAttributesAndTextsWithZeroBytesAreRefused) {
  Hdf5Writer writer(folder / "a.h5", *stream, {});
  EXPECT_THROW(writer.attribute("", "long", std::string(70'000, 'x')), IoError);
  EXPECT_THROW(writer.text("text", std::string_view("a\0b", 3)), IoError);
}

TEST_F(ArchiveTest, MissingFolderIsAnIoErrorWithTheSystemsWords) {
  try {
    Hdf5Writer writer(folder / "absent/a.h5", *stream, {});
    FAIL();
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("No such file or directory"), std::string::npos) << error.what();
  }
}

TEST_F(ArchiveTest, UnfinishedFileIsRefused) {
  {
    Hdf5Writer writer(folder / "a.h5", *stream, {});
    write_sample(writer);
  }
  EXPECT_THROW(Hdf5Reader reader(folder / "a.h5"), CheckpointError);
}

TEST_F(ArchiveTest, LockedFileIsExplained) {
  const std::filesystem::path path = write("sample.h5", Hdf5Layout::contiguous);
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(flock(descriptor, LOCK_EX | LOCK_NB), 0);
  const std::string reason = refusal([&] { Hdf5Reader reader(path); });
  close(descriptor);
  EXPECT_NE(reason.find("HDF5_USE_FILE_LOCKING=FALSE"), std::string::npos) << reason;
  EXPECT_NO_THROW(Hdf5Reader reader(path));
}

TEST_F(ArchiveTest, OutlineHasNamesAndSizesOnly) {
  OutlineWriter outline;
  write_sample(outline);
  EXPECT_EQ(outline.tensors().size(), 30u);
  EXPECT_EQ(outline.tensors().at("model/i32/vector").shape, (Shape{31}));
  EXPECT_TRUE(outline.texts().contains("recipe"));
  EXPECT_TRUE(outline.attributes().contains({"state", "step"}));
  const size_t elements = 13 * 7 + 31 + 1 + 36;
  EXPECT_EQ(outline.value_bytes(), elements * (8 + 4 + 2 + 8 + 4 + 1) + 29);
}

}  // namespace
}  // namespace headway
