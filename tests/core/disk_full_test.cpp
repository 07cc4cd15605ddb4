// A full disk while an archive is written: an IoError, and a process that ends with the status it chose.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <iostream>

#include "core/io/hdf5_archive.h"
#include "tests/core/sample_archive.h"
#include "tests/support/child_process.h"
#include "tests/support/scratch_folder.h"

namespace headway {
namespace {

// 48 MiB in files of 4 MiB tensors; the exit status, with the message on stderr.
int write_48_mib(const std::filesystem::path& path, Hdf5Layout layout, std::string_view expected_reason) {
  const std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  const Tensor tensor = Tensor::zeros({1024, 1024}, DType::f32, *stream);
  try {
    Hdf5Writer writer(path, *stream, {.layout = layout});
    for (int i = 0; i < 12; ++i) writer.tensor("model/weight_" + std::to_string(i), tensor);
    writer.finish();
  } catch (const IoError& error) {
    const bool explained = std::string(error.what()).find(expected_reason) != std::string::npos;
    if (!explained) std::cerr << error.what() << "\n";
    return explained ? static_cast<int>(error.code()) : 99;
  }
  return 0;
}

class DiskFullTest : public testing::TestWithParam<Hdf5Layout> {};

TEST_P(DiskFullTest, FullFileSystemEndsWithTheIoStatus) {
  ScratchFolder folder;
  if (mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=24m") != 0)
    GTEST_SKIP() << "mounting a tmpfs is not permitted here: " << std::strerror(errno);
  for (int i = 0; i < 5; ++i) {
    const std::filesystem::path path = folder / fmt::format("full_{}.h5", i);
    const ChildEnd end =
        run_in_child(60, [&] { return write_48_mib(path, GetParam(), "No space left on device"); });
    EXPECT_EQ(end.exit_status, 7) << "signal " << end.signal;
    // The unfinished file was emptied, so that even an undeleted one leaves the disk usable.
    EXPECT_EQ(std::filesystem::space(folder.path()).available >= (20u << 20), true);
  }
  EXPECT_EQ(umount(folder.path().c_str()), 0);
}

TEST_P(DiskFullTest, FileSizeLimitEndsWithTheIoStatus) {
  ScratchFolder folder;
  for (int i = 0; i < 5; ++i) {
    const ChildEnd end = run_in_child(60, [&] {
      std::signal(SIGXFSZ, SIG_IGN);
      // Between two tensors and inside one.
      const rlimit limit{static_cast<rlim_t>(8 + i) << 20, RLIM_INFINITY};
      setrlimit(RLIMIT_FSIZE, &limit);
      return write_48_mib(folder / "limited.h5", GetParam(), "File too large");
    });
    EXPECT_EQ(end.exit_status, 7) << "signal " << end.signal;
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, DiskFullTest,
                         testing::Values(Hdf5Layout::contiguous, Hdf5Layout::checksummed),
                         [](const auto& layout) {
                           return layout.param == Hdf5Layout::contiguous ? "Contiguous" : "Checksummed";
                         });

}  // namespace
}  // namespace headway
