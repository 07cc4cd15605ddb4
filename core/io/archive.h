// Named tensors and values in groups: the interface between things with state and the files that keep it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace headway {

/// Paths use "/" between groups: "model/blocks/0/attention/query.weight".
class ArchiveWriter {
 public:
  virtual ~ArchiveWriter() = default;
  /// Contiguous, on any device.
  virtual void tensor(std::string_view path, const Tensor&) = 0;
  virtual void text(std::string_view path, std::string_view value) = 0;
  /// Attributes of the group or tensor at path ("" is the root).
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
  virtual bool has(std::string_view path) const = 0;
  /// All tensors below a group, sorted by path.
  virtual std::vector<ArchiveEntry> entries(std::string_view group) const = 0;
  /// Fills a contiguous tensor of the stored shape and dtype; CheckpointError naming path and difference
  /// otherwise.
  virtual void tensor(std::string_view path, const Tensor& into, Stream&) = 0;
  virtual std::string text(std::string_view path) = 0;
  virtual bool has_attribute(std::string_view path, std::string_view name) const = 0;
  virtual int64_t integer(std::string_view path, std::string_view name) = 0;
  virtual double number(std::string_view path, std::string_view name) = 0;
  virtual std::string string(std::string_view path, std::string_view name) = 0;
};

/// Something a checkpoint keeps: model, optimiser, data cursor, buffers of a layer.
class Stateful {
 public:
  virtual ~Stateful() = default;
  virtual void save(ArchiveWriter&, std::string_view prefix) const = 0;
  virtual void load(ArchiveReader&, std::string_view prefix, Stream&) = 0;
};

}  // namespace headway
