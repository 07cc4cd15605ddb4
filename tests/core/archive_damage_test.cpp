// Damaged files: every change of content is refused with a CheckpointError, and nothing ever crashes.
//
// Each case runs in a forked child, in batches: a child writes the outcome of each case to shared memory, so
// that a crash or a hang is charged to the case that caused it and the next child goes on behind it.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <random>

#include "core/io/hdf5_archive.h"
#include "core/io/memory_archive.h"
#include "tests/core/sample_archive.h"
#include "tests/support/child_process.h"
#include "tests/support/scratch_folder.h"

namespace headway {
namespace {

using Bytes = std::vector<char>;

enum Outcome : uint8_t { kNotRun, kRefused, kHarmless, kSilentlyWrong, kOtherError, kCrashed, kNumOutcomes };

// What a damaged copy holds may be equal (unused bytes were hit); the time of writing is no content.
constexpr std::string_view kTimeOfWriting[] = {"created_utc"};

void write_file(const std::filesystem::path& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

class ArchiveDamageTest : public testing::TestWithParam<Hdf5Layout> {
 protected:
  void SetUp() override {
    const std::filesystem::path path = folder / "good.h5";
    Hdf5Writer writer(path, *stream, {.layout = GetParam()});
    write_sample(writer);
    writer.finish();
    std::ifstream file(path, std::ios::binary);
    good.assign(std::istreambuf_iterator<char>(file), {});
    ASSERT_GT(good.size(), 4096u);
    ASSERT_EQ(open_and_compare(good), kHarmless);
  }

  Outcome open_and_compare(const Bytes& damaged) {
    const std::filesystem::path path = folder / "damaged.h5";
    write_file(path, damaged);
    try {
      Hdf5Reader reader(path), original(folder / "good.h5");
      reader.verify();
      return differences(original, reader, kTimeOfWriting).empty() ? kHarmless : kSilentlyWrong;
    } catch (const CheckpointError&) {
      return kRefused;
    } catch (const std::exception& error) {
      std::cerr << "unexpected: " << error.what() << "\n";
      return kOtherError;
    }
  }

  // damage(i) -> the bytes of case i. Counts outcomes and prints them.
  std::map<Outcome, int> run(int num_cases, const std::function<Bytes(int)>& damage) {
    constexpr unsigned kSecondsPerBatch = 60;
    constexpr int kBatch = 500;
    auto* outcomes = static_cast<uint8_t*>(mmap(nullptr, static_cast<size_t>(num_cases),
                                                PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    for (int next = 0; next < num_cases;) {
      const int end = std::min(next + kBatch, num_cases);
      const ChildEnd child = run_in_child(kSecondsPerBatch, [&] {
        for (int i = next; i < end; ++i) outcomes[i] = open_and_compare(damage(i));
        _exit(0);  // not exit(): a leak checker would report what HDF5 forgets of files it refused
        return 0;
      });
      while (next < end && outcomes[next] != kNotRun) ++next;
      if (next < end) {
        std::cerr << "case " << next << " ended its process: signal " << child.signal << "\n";
        outcomes[next++] = kCrashed;
      }
    }
    std::map<Outcome, int> counts;
    for (int i = 0; i < num_cases; ++i) {
      ++counts[static_cast<Outcome>(outcomes[i])];
      if (outcomes[i] == kSilentlyWrong) std::cerr << "case " << i << " was accepted with other content\n";
    }
    munmap(outcomes, static_cast<size_t>(num_cases));
    std::cout << num_cases << " cases: " << counts[kRefused] << " refused, " << counts[kHarmless]
              << " harmless, " << counts[kSilentlyWrong] << " silently wrong, " << counts[kCrashed]
              << " crashed\n";
    return counts;
  }

  void expect_no_harm(std::map<Outcome, int> counts) {
    EXPECT_EQ(counts[kSilentlyWrong], 0);
    EXPECT_EQ(counts[kCrashed], 0);
    EXPECT_EQ(counts[kOtherError], 0);
  }

  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  ScratchFolder folder;
  Bytes good;
};

// Finds each dataset's bytes in the file and flips one bit of them.
TEST_P(ArchiveDamageTest, OneFlippedBitInAnyDatasetIsRefused) {
  MemoryArchive memory(*stream);
  write_sample(memory);
  std::vector<Bytes> damaged;
  std::mt19937 random(5);
  for (const ArchiveEntry& entry : memory.entries("")) {
    const Tensor tensor = Tensor::empty(entry.shape, entry.dtype, Device{});
    memory.tensor(entry.path, tensor, *stream);
    if (tensor.bytes() < 8) continue;  // too short to be found
    const auto* first = static_cast<const char*>(tensor.raw());
    const auto at = std::search(good.begin(), good.end(), first, first + tensor.bytes());
    ASSERT_NE(at, good.end()) << entry.path;
    damaged.push_back(good);
    const size_t byte = static_cast<size_t>(at - good.begin()) + random() % tensor.bytes();
    damaged.back()[byte] = static_cast<char>(damaged.back()[byte] ^ (1 << random() % 8));
  }
  const int num_cases = static_cast<int>(damaged.size());
  ASSERT_GE(num_cases, 15);
  EXPECT_EQ(run(num_cases, [&](int i) { return damaged[static_cast<size_t>(i)]; })[kRefused], num_cases);
}

TEST_P(ArchiveDamageTest, TruncatedFilesAreRefused) {
  constexpr int kCases = 300;
  auto counts = run(kCases, [&](int i) {
    std::mt19937 random(static_cast<unsigned>(i));
    const size_t bytes = i < 100 ? static_cast<size_t>(i) : random() % good.size();
    return Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(bytes));
  });
  EXPECT_EQ(counts[kRefused], kCases);
}

TEST_P(ArchiveDamageTest, RandomEditsNeverCrashAndNeverChangeContentUnnoticed) {
  constexpr int kCases = 4000;
  expect_no_harm(run(kCases, [&](int i) {
    std::mt19937 random(1000 + static_cast<unsigned>(i));
    Bytes bytes = good;
    const unsigned edits = 1 + random() % 4;
    for (unsigned e = 0; e < edits; ++e) bytes[random() % bytes.size()] = static_cast<char>(random());
    return bytes;
  }));
}

// The first kilobytes hold the superblock and most object headers.
TEST_P(ArchiveDamageTest, EveryByteOfTheHeadMayBeInverted) {
  constexpr int kCases = 2000;
  expect_no_harm(run(kCases, [&](int i) {
    Bytes bytes = good;
    bytes[static_cast<size_t>(i)] = static_cast<char>(~bytes[static_cast<size_t>(i)]);
    return bytes;
  }));
}

INSTANTIATE_TEST_SUITE_P(Layouts, ArchiveDamageTest,
                         testing::Values(Hdf5Layout::contiguous, Hdf5Layout::checksummed),
                         [](const auto& layout) {
                           return layout.param == Hdf5Layout::contiguous ? "Contiguous" : "Checksummed";
                         });

TEST(ArchiveFile, OtherKindsOfFilesAreRefusedInOneSentence) {
  ScratchFolder folder;
  const auto refusal = [&](const std::filesystem::path& path) -> std::string {
    try {
      Hdf5Reader reader(path);
    } catch (const CheckpointError& error) {
      return std::string(error.what()).substr(path.string().size());
    }
    return "accepted";
  };
  EXPECT_EQ(refusal(folder / "absent.h5"), ": cannot open the file: No such file or directory");
  EXPECT_EQ(refusal(folder.path()), ": not a regular file");
  write_file(folder / "empty.h5", {});
  EXPECT_EQ(refusal(folder / "empty.h5"), ": not an HDF5 file");
  write_file(folder / "text.h5", Bytes(5000, 'x'));
  EXPECT_EQ(refusal(folder / "text.h5"), ": not an HDF5 file");
  ASSERT_EQ(mkfifo((folder / "pipe.h5").c_str(), 0600), 0);
  EXPECT_EQ(refusal(folder / "pipe.h5"), ": not a regular file");
}

}  // namespace
}  // namespace headway
