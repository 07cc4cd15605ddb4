// Archives in HDF5 files: version bound 1.10 (checksummed metadata), a digest per dataset, readable by h5py.
//
//   attributes of every dataset:  dtype ("float32", "bfloat16", ..., "text"), xxh3 (XXH3-64 of the raw bytes)
//   attributes of the root:       format, format_version, program, created_utc, content_xxh128, complete = 1
//
// content_xxh128 is XXH3-128 over the lines "path <tab> dtype <tab> shape <tab> xxh3" of all datasets, sorted
// by path, so a dataset cannot be renamed, dropped or added unnoticed; then, since format version 2, over the
// lines "path <tab> @name <tab> value" of all attributes but content_xxh128 and complete, sorted by path and
// name. An integer is in decimal digits, a number in C's hexadecimal notation, a text its XXH3-64. Texts are
// scalar string datasets.
//
// HDF5 is no sandbox. The reader refuses what it never writes (soft and external links, external storage,
// virtual layouts, filters but Fletcher32, other types) and sizes a file does not hold, but the library that
// parses the bytes has known faults: do not open files from strangers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "core/io/archive.h"

namespace headway {

inline constexpr std::string_view kCheckpointFormat = "headway-checkpoint";
inline constexpr std::string_view kWeightsFormat = "headway-weights";
/// Of the files that are written; version 1 is read too.
inline constexpr int64_t kFormatVersion = 2;

/// How tensors lie in the file. contiguous is the fastest to write; checksummed (chunks with Fletcher32) lets
/// tools that know nothing of our digests notice damage.
enum class Hdf5Layout { contiguous, checksummed };

/// Creates a file and fills it; the file is complete once finish() has returned. All errors are IoError.
/// Without finish() the file is left as it is, for the owner of the path to delete.
class Hdf5Writer final : public ArchiveWriter {
 public:
  struct Options {
    std::string_view format = kCheckpointFormat;
    Hdf5Layout layout = Hdf5Layout::contiguous;
  };
  /// stream: orders the copies of tensors that are not on the CPU.
  Hdf5Writer(const std::filesystem::path&, Stream& stream, const Options&);
  ~Hdf5Writer() override;

  void tensor(std::string_view path, const Tensor&) override;
  void text(std::string_view path, std::string_view value) override;
  void attribute(std::string_view path, std::string_view name, int64_t value) override;
  void attribute(std::string_view path, std::string_view name, double value) override;
  void attribute(std::string_view path, std::string_view name, std::string_view value) override;

  /// Writes the root's digest and the mark of completeness, flushes and closes. Not yet fsynced.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Opens a file of ours for reading. The whole structure is checked before anything is read; every dataset is
/// checked against its digest when it is read. All errors are CheckpointError, in one sentence.
class Hdf5Reader final : public ArchiveReader {
 public:
  /// own: a complete checkpoint or weights file of ours with all digests. any: what our types can express of
  /// any HDF5 file, for looking at it; the refusals above hold all the same.
  enum class Accept { own, any };
  explicit Hdf5Reader(const std::filesystem::path&, Accept = Accept::own);
  ~Hdf5Reader() override;

  bool has(std::string_view path) const override;
  std::vector<ArchiveEntry> entries(std::string_view group) const override;
  std::vector<std::string> texts(std::string_view group) const override;
  std::vector<std::string> attributed(std::string_view group) const override;
  const Attributes& attributes(std::string_view path) const override;
  void tensor(std::string_view path, const Tensor& into, Stream&) override;
  std::string text(std::string_view path) override;
  std::string source() const override;

  /// Reads every dataset and compares it with its digest; CheckpointError names the first damaged one.
  void verify();
  /// Whether one dataset's bytes have the digest the file gives; CheckpointError when they cannot be read.
  bool is_intact(std::string_view path);
  /// XXH3-128 over the lines of the datasets below a group: equal when names, shapes, dtypes and bits are.
  std::string digest(std::string_view group) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace headway
