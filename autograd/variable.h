// A tensor together with where its gradient goes: to the node that produced it, or to a leaf's buffer.
#pragma once

#include <functional>
#include <memory>

#include "core/tensor.h"

namespace headway {

struct Node;

/// Where the gradient of a leaf collects. The first contribution of a step overwrites, later ones add, so no
/// pass over memory is spent on zeros.
struct GradBuffer {
  Tensor grad;  // allocated at the first contribution unless the owner placed it somewhere
  DType dtype = DType::f32;
  bool written = false;                    // since the owner last reset it
  std::function<void()> on_ready;          // the last contribution of the step is in
  const Storage* value_storage = nullptr;  // of the leaf's value: not counted as memory saved for backward
};

/// Where the gradient of one input of an operation goes: at most one of node and leaf is set.
struct Edge {
  std::shared_ptr<Node> node;
  int output = 0;  // which output of node the input is
  std::shared_ptr<GradBuffer> leaf;

  explicit operator bool() const { return node || leaf; }
};

class Variable {
 public:
  Variable() = default;
  /// A constant.
  explicit Variable(Tensor value) : value_(std::move(value)) {}
  Variable(Tensor value, Edge edge) : value_(std::move(value)), edge_(std::move(edge)) {}

  /// A leaf that wants a gradient, in fp32 (fp64 for fp64 values) unless the buffer says otherwise.
  static Variable leaf(const Tensor& value, std::shared_ptr<GradBuffer> buffer = nullptr) {
    if (!buffer) {
      buffer = std::make_shared<GradBuffer>();
      buffer->dtype = accumulator_of(value.dtype());
    }
    buffer->value_storage = value.storage().get();
    return Variable(value, Edge{nullptr, 0, std::move(buffer)});
  }

  bool defined() const { return value_.defined(); }
  const Tensor& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  int64_t size(int dim) const { return value_.size(dim); }
  bool requires_grad() const { return static_cast<bool>(edge_); }
  /// Gradient of a leaf: undefined where nothing has been written.
  Tensor grad() const { return edge_.leaf && edge_.leaf->written ? edge_.leaf->grad : Tensor(); }
  const Edge& edge() const { return edge_; }

 private:
  Tensor value_;
  Edge edge_;
};

}  // namespace headway
