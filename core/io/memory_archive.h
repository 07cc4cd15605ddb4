// An archive in memory, for tests and for comparing states without a file.
#pragma once

#include <map>
#include <string>

#include "core/io/archive.h"

namespace headway {

/// Tensors are copied on the stream's device, which must be that of every tensor.
class MemoryArchive final : public ArchiveWriter, public ArchiveReader {
 public:
  explicit MemoryArchive(Stream& stream) : stream_(stream) {}

  void tensor(std::string_view path, const Tensor&) override;
  void text(std::string_view path, std::string_view value) override;
  void attribute(std::string_view path, std::string_view name, int64_t value) override;
  void attribute(std::string_view path, std::string_view name, double value) override;
  void attribute(std::string_view path, std::string_view name, std::string_view value) override;

  bool has(std::string_view path) const override;
  std::vector<ArchiveEntry> entries(std::string_view group) const override;
  std::vector<std::string> texts(std::string_view group) const override;
  std::vector<std::string> attributed(std::string_view group) const override;
  const Attributes& attributes(std::string_view path) const override;
  void tensor(std::string_view path, const Tensor& into, Stream&) override;
  std::string text(std::string_view path) override;
  std::string source() const override { return "memory"; }

 private:
  Stream& stream_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> texts_;
  std::map<std::string, Attributes, std::less<>> attributes_;
};

}  // namespace headway
