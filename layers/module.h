// A tree of named parameters. Modules declare shapes when they are built and own no memory until
// materialize(), so that a model of any size can be described without allocating it.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/io/archive.h"
#include "layers/parameter.h"

namespace headway {

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// Calls the function with every parameter and its path ("blocks/0/attention/query/weight"), in the order
  /// of declaration, children after own parameters.
  void visit(std::string_view prefix, const std::function<void(const std::string& path, Parameter&)>&);
  /// Calls the function with this module and every one below it, and its path.
  void visit_modules(std::string_view prefix, const std::function<void(const std::string& path, Module&)>&);

  /// Allocates every parameter and fills it from (seed, path): the same numbers on any number of ranks.
  /// dtype f32 or f64: values in it. bf16: values in f32, beside bf16 copies of matrices for the kernels.
  void materialize(DType dtype, uint64_t seed, Stream&);
  /// Makes the bf16 copies follow values that were changed from outside (a checkpoint was loaded).
  void round_weights(Stream&);

  /// Buffers that belong to the state but are not parameters (running averages). materialize() makes them, in
  /// the accumulator's dtype.
  virtual void make_buffers(DType, Stream&) {}
  virtual void save_buffers(ArchiveWriter&, std::string_view /*prefix*/) const {}
  virtual void load_buffers(ArchiveReader&, std::string_view /*prefix*/, Stream&) {}

  /// Freezes every parameter whose path contains none of the names. ConfigError for a name in no path.
  void train_only(const std::vector<std::string>& names);
  /// Of the parameters that are not frozen.
  std::vector<std::shared_ptr<GradBuffer>> gradient_buffers();

 protected:
  Parameter& add_parameter(std::string name, const Shape&, Init, bool decay);
  /// The child must live as long as this module. A child without a name adds no level to the paths.
  void add_child(std::string name, Module&);

 private:
  std::deque<std::pair<std::string, Parameter>> parameters_;
  std::vector<std::pair<std::string, Module*>> children_;
};

/// "a/b", or the other one where one of them is empty.
std::string join_path(std::string_view prefix, std::string_view name);

}  // namespace headway
