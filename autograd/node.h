// One recorded operation of the graph.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "autograd/variable.h"
#include "core/context.h"

namespace headway {

/// What an operation is told about the gradient of one of its inputs.
class GradTarget {
 public:
  GradTarget() = default;
  /// direct: the operation may write into the memory where the gradient collects.
  GradTarget(const Edge& edge, bool direct, Stream&);

  /// Whether a gradient is wanted at all.
  explicit operator bool() const { return wanted_; }
  /// Memory to write the gradient to: the parameter's own buffer or the sum so far of a value with several
  /// uses, where the dtype fits, else new memory. The operation returns this tensor from its backward.
  Tensor tensor(const Shape&, DType, Device) const;
  /// Whether the gradient must be added to what tensor() holds, instead of overwriting it.
  bool accumulates(DType dtype) const { return (writes_leaf(dtype) && leaf_->written) || adds_to_sum(dtype); }

 private:
  bool writes_leaf(DType dtype) const { return leaf_ && leaf_->dtype == dtype; }
  bool adds_to_sum(DType dtype) const { return sum_ && sum_->dtype() == dtype; }

  bool wanted_ = false;
  GradBuffer* leaf_ = nullptr;
  Tensor* sum_ = nullptr;  // of the uses whose gradients came before
  Stream* stream_ = nullptr;
};

template <size_t N>
using Needs = std::array<GradTarget, N>;
template <size_t N>
using Grads = std::array<Tensor, N>;

struct Node {
  Node(const char* name_in, int num_outputs);
  virtual ~Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  /// doutputs: one gradient per output, undefined for outputs nobody used; at least one is defined.
  /// Writes one gradient per input, undefined where targets[i] is false.
  virtual void backward(Context&, std::span<const Tensor> doutputs, std::span<const GradTarget> targets,
                        std::span<Tensor> dinputs) = 0;
  /// Frees what was saved for backward.
  virtual void release() = 0;
  /// Calls the function with every tensor saved for backward.
  virtual void visit_saved(const std::function<void(const Tensor&)>&) const = 0;

  const char* name;
  uint64_t order;  // increases with creation: a node's inputs have smaller numbers
  std::vector<Edge> inputs;
  std::vector<Tensor> pending;  // gradients of the outputs, while a backward pass collects them
};

}  // namespace headway
