// An archive that keeps names, shapes and dtypes but no values: what a state would write, and how large it
// is.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>

#include "core/io/archive.h"

namespace headway {

class OutlineWriter final : public ArchiveWriter {
 public:
  void tensor(std::string_view path, const Tensor&) override;
  void text(std::string_view path, std::string_view value) override;
  void attribute(std::string_view path, std::string_view name, int64_t) override { note(path, name); }
  void attribute(std::string_view path, std::string_view name, double) override { note(path, name); }
  void attribute(std::string_view path, std::string_view name, std::string_view) override {
    note(path, name);
  }

  const std::map<std::string, ArchiveEntry>& tensors() const { return tensors_; }
  const std::set<std::string>& texts() const { return texts_; }
  /// (path, name), sorted
  const std::set<std::pair<std::string, std::string>>& attributes() const { return attributes_; }
  /// Bytes of all values, without what the file format adds.
  size_t value_bytes() const { return value_bytes_; }

 private:
  void note(std::string_view path, std::string_view name) { attributes_.emplace(path, name); }

  std::map<std::string, ArchiveEntry> tensors_;
  std::set<std::string> texts_;
  std::set<std::pair<std::string, std::string>> attributes_;
  size_t value_bytes_ = 0;
};

}  // namespace headway
