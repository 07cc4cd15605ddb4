#include "autograd/engine.h"

#include <algorithm>
#include <atomic>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "kernels/ops/accumulate.h"

namespace headway {
namespace {

std::atomic<uint64_t> next_order{0};

template <class To, class From>
void launch_accumulate(const Tensor& to, const Tensor& from, bool overwrite, Stream& stream) {
  launch(Accumulate<To, From>{.to = to.reshape({-1}).view<To, 1>("gradient"),
                              .from = from.reshape({-1}).view<const From, 1>("gradient"),
                              .overwrite = overwrite},
         stream);
}

void write(const Tensor& to, const Tensor& from, bool overwrite, Stream& stream) {
  HEADWAY_CHECK(
      to.shape() == from.shape(), ShapeError,
      "gradient of shape " + from.shape().to_string() + " for a value of shape " + to.shape().to_string());
  if (to.dtype() == from.dtype()) {
    dispatch<double, float, bf16>(to.dtype(), "gradient",
                                  [&]<class T>() { launch_accumulate<T, T>(to, from, overwrite, stream); });
  } else {
    HEADWAY_CHECK(
        to.dtype() == DType::f32 && from.dtype() == DType::bf16, ShapeError,
        std::string("gradient of dtype ") + to_string(from.dtype()) + " for " + to_string(to.dtype()));
    launch_accumulate<float, bf16>(to, from, overwrite, stream);
  }
}

void add_to_leaf(GradBuffer& leaf, const Tensor& gradient, Stream& stream) {
  if (!leaf.grad) leaf.grad = Tensor::empty(gradient.shape(), leaf.dtype, gradient.device());
  const bool in_place = leaf.grad.storage() == gradient.storage() && leaf.grad.raw() == gradient.raw();
  if (!in_place) write(leaf.grad, gradient, !leaf.written, stream);
  leaf.written = true;
}

/// An operation may hand the same memory to several inputs (a residual sum does), so only memory nobody else
/// refers to is added to in place.
void make_sole_owner(Tensor& sum, Stream& stream) {
  if (sum.storage().use_count() > 1) sum = sum.clone(stream);
}

void add_to_pending(Tensor& pending, const Tensor& gradient, Stream& stream) {
  if (!pending) {
    pending = gradient;
    return;
  }
  if (pending.storage() == gradient.storage() && pending.raw() == gradient.raw()) return;  // added in place
  make_sole_owner(pending, stream);
  write(pending, gradient, false, stream);
}

void add_to_edge(const Edge& edge, const Tensor& gradient, Stream& stream) {
  if (edge.leaf)
    add_to_leaf(*edge.leaf, gradient, stream);
  else if (edge.node)
    add_to_pending(edge.node->pending[static_cast<size_t>(edge.output)], gradient, stream);
}

/// Every node the roots depend on, newest first.
std::vector<std::shared_ptr<Node>> reachable_nodes(std::span<const Variable> roots) {
  std::vector<std::shared_ptr<Node>> found;
  std::unordered_set<const Node*> seen;
  const auto visit = [&](const Edge& edge) {
    if (edge.node && seen.insert(edge.node.get()).second) found.push_back(edge.node);
  };
  for (const Variable& root : roots) visit(root.edge());
  for (size_t i = 0; i < found.size(); ++i) {
    const std::shared_ptr<Node> node = found[i];  // visit grows the vector
    for (const Edge& edge : node->inputs) visit(edge);
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a->order > b->order; });
  return found;
}

bool has_earlier_edge_to(const std::vector<Edge>& edges, size_t index) {
  const Edge& edge = edges[index];
  for (size_t i = 0; i < index; ++i)
    if (edges[i].leaf == edge.leaf && edges[i].node == edge.node && edges[i].output == edge.output)
      return true;
  return false;
}

void run_node(Context& ctx, Node& node) {
  const bool reached =
      std::any_of(node.pending.begin(), node.pending.end(), [](const Tensor& t) { return t.defined(); });
  if (reached) {
    std::vector<GradTarget> targets;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      targets.emplace_back(node.inputs[i], !has_earlier_edge_to(node.inputs, i), ctx.stream);
    }
    std::vector<Tensor> dinputs(node.inputs.size());
    node.backward(ctx, node.pending, targets, dinputs);
    node.pending.clear();
    node.release();
    for (size_t i = 0; i < dinputs.size(); ++i)
      if (dinputs[i]) add_to_edge(node.inputs[i], std::exchange(dinputs[i], Tensor()), ctx.stream);
  } else {
    node.release();
  }
}

}  // namespace

Node::Node(const char* name_in, int num_outputs)
    : name(name_in), order(next_order.fetch_add(1)), pending(static_cast<size_t>(num_outputs)) {}

GradTarget::GradTarget(const Edge& edge, bool direct, Stream& stream)
    : wanted_(static_cast<bool>(edge)), leaf_(direct ? edge.leaf.get() : nullptr), stream_(&stream) {
  if (!direct || edge.leaf || !edge.node) return;
  Tensor& sum = edge.node->pending[static_cast<size_t>(edge.output)];
  if (sum) sum_ = &sum;
}

Tensor GradTarget::tensor(const Shape& shape, DType dtype, Device device) const {
  if (adds_to_sum(dtype)) {
    make_sole_owner(*sum_, *stream_);
    return sum_->reshape(shape);
  }
  if (!writes_leaf(dtype)) return Tensor::empty(shape, dtype, device);
  if (!leaf_->grad) leaf_->grad = Tensor::empty(shape, dtype, device);
  return leaf_->grad.reshape(shape);
}

void backward(Context& ctx, std::span<const Variable> roots, std::span<const Tensor> seeds,
              MicroStep micro_step) {
  const std::vector<std::shared_ptr<Node>> nodes = reachable_nodes(roots);
  std::unordered_map<const GradBuffer*, int> uses_left;
  for (const auto& node : nodes)
    for (const Edge& edge : node->inputs)
      if (edge.leaf) ++uses_left[edge.leaf.get()];

  for (size_t i = 0; i < roots.size(); ++i) add_to_edge(roots[i].edge(), seeds[i], ctx.stream);
  for (const auto& node : nodes) {
    run_node(ctx, *node);
    for (const Edge& edge : node->inputs) {
      if (!edge.leaf || --uses_left[edge.leaf.get()] > 0) continue;
      if (micro_step == MicroStep::last && edge.leaf->on_ready) edge.leaf->on_ready();
    }
  }
  // Cutting the edges here keeps the destructors of a long chain from recursing.
  for (const auto& node : nodes) node->inputs.clear();
}

void backward(Context& ctx, const Variable& loss, MicroStep micro_step) {
  HEADWAY_CHECK(loss.value().numel() == 1, ShapeError,
                "backward: the loss has shape " + loss.shape().to_string() + " where one number is expected");
  Tensor seed;
  dispatch<double, float>(loss.value().dtype(), "loss", [&]<class T>() {
    const T one = 1;
    seed = Tensor::from<T>(std::span<const T>(&one, 1), loss.shape(), ctx.stream);
  });
  backward(ctx, std::span(&loss, 1), std::span<const Tensor>(&seed, 1), micro_step);
}

size_t saved_bytes(const Variable& root) {
  const std::vector<std::shared_ptr<Node>> nodes = reachable_nodes(std::span(&root, 1));
  std::unordered_set<const Storage*> counted;
  for (const auto& node : nodes)
    for (const Edge& edge : node->inputs)
      if (edge.leaf) counted.insert(edge.leaf->value_storage);
  size_t bytes = 0;
  for (const auto& node : nodes) {
    node->visit_saved([&](const Tensor& tensor) {
      if (tensor && counted.insert(tensor.storage().get()).second) bytes += tensor.storage()->bytes();
    });
  }
  return bytes;
}

}  // namespace headway
