// Named tensors and values in groups: the interface between things with state and the files that keep it.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/tensor.h"

namespace headway {

using AttributeValue = std::variant<int64_t, double, std::string>;
using Attributes = std::map<std::string, AttributeValue, std::less<>>;

/// Paths use "/" between groups: "model/blocks/0/attention/query.weight".
class ArchiveWriter {
 public:
  virtual ~ArchiveWriter() = default;
  /// Contiguous, on any device.
  virtual void tensor(std::string_view path, const Tensor&) = 0;
  virtual void text(std::string_view path, std::string_view value) = 0;
  /// Attributes of the group or tensor at path ("" is the root). Short: a long text belongs in text().
  virtual void attribute(std::string_view path, std::string_view name, int64_t value) = 0;
  virtual void attribute(std::string_view path, std::string_view name, double value) = 0;
  virtual void attribute(std::string_view path, std::string_view name, std::string_view value) = 0;
};

struct ArchiveEntry {
  std::string path;
  Shape shape;
  DType dtype;
};

class ArchiveReader {
 public:
  virtual ~ArchiveReader() = default;
  /// A tensor or a text of that name.
  virtual bool has(std::string_view path) const = 0;
  /// All tensors below a group ("" is the root), sorted by path.
  virtual std::vector<ArchiveEntry> entries(std::string_view group) const = 0;
  /// Paths of all texts below a group, sorted.
  virtual std::vector<std::string> texts(std::string_view group) const = 0;
  /// Everything with attributes below a group, the group itself included, sorted by path.
  virtual std::vector<std::string> attributed(std::string_view group) const = 0;
  /// Those of the group or tensor at path; empty where there is none. Valid as long as the reader.
  virtual const Attributes& attributes(std::string_view path) const = 0;
  /// Fills a contiguous tensor of the stored shape and dtype; CheckpointError naming path and difference
  /// otherwise.
  virtual void tensor(std::string_view path, const Tensor& into, Stream&) = 0;
  virtual std::string text(std::string_view path) = 0;
  /// Where the values come from, for messages: a file name.
  virtual std::string source() const = 0;

  bool has_attribute(std::string_view path, std::string_view name) const;
  /// CheckpointError naming path and attribute when it is absent or of another type.
  int64_t integer(std::string_view path, std::string_view name) const;
  double number(std::string_view path, std::string_view name) const;
  std::string string(std::string_view path, std::string_view name) const;
};

/// Something a checkpoint keeps: model, optimiser, data cursor, buffers of a layer.
class Stateful {
 public:
  virtual ~Stateful() = default;
  virtual void save(ArchiveWriter&, std::string_view prefix) const = 0;
  virtual void load(ArchiveReader&, std::string_view prefix, Stream&) = 0;
};

/// True for the group itself and everything under it; every path is below "".
bool is_below(std::string_view path, std::string_view group);

/// CheckpointError naming both unless `into` is a contiguous tensor of the stored shape and dtype.
void check_fits(const ArchiveReader&, const ArchiveEntry& stored, const Tensor& into);

/// What differs between two archives, one sentence each: names, shapes, dtypes, bits of tensors, texts,
/// attributes. Attributes named in `ignored` (a time of writing) are not compared.
std::vector<std::string> differences(ArchiveReader& a, ArchiveReader& b,
                                     std::span<const std::string_view> ignored);

}  // namespace headway
