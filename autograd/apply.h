// The door between operations and the graph. An operation is a struct:
//
//   struct RmsNorm {
//     static constexpr const char* name = "rms_norm";
//     struct Config { float eps; };
//     struct Saved {                                         // exactly what backward reads
//       Tensor x, weight, inv_rms;
//       Config config;
//       auto tensors() const { return std::tie(x, weight, inv_rms); }
//     };
//     // saved is null when nothing is recorded
//     static Tensor forward(Context&, Saved* saved, const Config&, const Tensor& x, const Tensor& weight);
//     static Grads<2> backward(Context&, const Saved&, const Tensor& dy, const Needs<2>&);
//   };
//   Variable y = apply<RmsNorm>(ctx, {.eps = 1e-5f}, x, weight);
//
// An input is a Variable (possibly undefined: an absent option) or a plain Tensor that never gets a gradient
// (token ids). forward may return std::array<Tensor, M>; then apply returns M Variables and backward receives
// const Grads<M>&, undefined for outputs nobody used.
//
// An operation with many inputs names them instead: it declares a struct template Inputs<T> with a T for
// each, whose all() returns std::tie of them. Then apply takes one such struct (of Variables and Tensors),
// forward an Inputs<Tensor>, and backward an Inputs<GradTarget>, for which it returns an Inputs<Tensor>.
#pragma once

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <utility>

#include "autograd/node.h"

namespace headway {
namespace detail {

inline const Tensor& value_of(const Variable& input) { return input.value(); }
inline const Tensor& value_of(const Tensor& input) { return input; }
/// An output that its operation left undefined is an absent option to the next one.
inline Edge edge_of(const Variable& input) { return input.defined() ? input.edge() : Edge{}; }
inline Edge edge_of(const Tensor&) { return {}; }

template <class Result>
inline constexpr size_t num_outputs = 1;
template <size_t M>
inline constexpr size_t num_outputs<std::array<Tensor, M>> = M;

template <class Op>
concept NamesInputs = requires {
  typename Op::template Inputs<Tensor>;
};

template <class Op, size_t N, class Result>
struct OpNode final : Node {
  static constexpr size_t M = num_outputs<Result>;

  OpNode() : Node(Op::name, static_cast<int>(M)) {}

  void backward(Context& ctx, std::span<const Tensor> doutputs, std::span<const GradTarget> targets,
                std::span<Tensor> dinputs) override {
    if constexpr (std::is_same_v<Result, Tensor>) {
      differentiate(ctx, doutputs[0], targets, dinputs);
    } else {
      Grads<M> all;
      std::copy_n(doutputs.begin(), M, all.begin());
      differentiate(ctx, all, targets, dinputs);
    }
  }
  void release() override { saved = typename Op::Saved{}; }
  void visit_saved(const std::function<void(const Tensor&)>& visit) const override {
    std::apply([&](const auto&... tensor) { (visit(tensor), ...); }, saved.tensors());
  }

  typename Op::Saved saved;

 private:
  /// doutput: a Tensor, or one for each output.
  template <class Doutput>
  void differentiate(Context& ctx, const Doutput& doutput, std::span<const GradTarget> targets,
                     std::span<Tensor> dinputs) {
    if constexpr (NamesInputs<Op>) {
      typename Op::template Inputs<GradTarget> needs;
      std::apply(
          [&](auto&... need) {
            size_t i = 0;
            ((need = targets[i++]), ...);
          },
          needs.all());
      const typename Op::template Inputs<Tensor> gradients = Op::backward(ctx, saved, doutput, needs);
      std::apply(
          [&](const auto&... gradient) {
            size_t i = 0;
            ((dinputs[i++] = gradient), ...);
          },
          gradients.all());
    } else {
      Needs<N> needs;
      std::copy_n(targets.begin(), N, needs.begin());
      Grads<N> gradients = Op::backward(ctx, saved, doutput, needs);
      std::move(gradients.begin(), gradients.end(), dinputs.begin());
    }
  }
};

/// forward(saved): the operation on the values of its inputs.
template <class Op, size_t N, class Forward>
auto record(Context& ctx, std::array<Edge, N> edges, const Forward& forward) {
  using Result = decltype(forward(nullptr));
  using OpNode = OpNode<Op, N, Result>;

  bool any_edge = false;
  for (const Edge& edge : edges) any_edge = any_edge || edge;
  std::shared_ptr<OpNode> node;
  if (ctx.recording && any_edge) node = std::make_shared<OpNode>();

  Result result = forward(node ? &node->saved : nullptr);
  if (node) node->inputs.assign(std::make_move_iterator(edges.begin()), std::make_move_iterator(edges.end()));

  const auto wrap = [&](Tensor tensor, int output) {
    return node ? Variable(std::move(tensor), Edge{node, output, nullptr}) : Variable(std::move(tensor));
  };
  if constexpr (std::is_same_v<Result, Tensor>) {
    return wrap(std::move(result), 0);
  } else {
    return [&]<size_t... I>(std::index_sequence<I...>) {
      return std::array<Variable, sizeof...(I)>{wrap(std::move(result[I]), static_cast<int>(I))...};
    }
    (std::make_index_sequence<num_outputs<Result>>{});
  }
}

}  // namespace detail

template <class Op, class... In>
requires(!detail::NamesInputs<Op>) auto apply(Context& ctx, const typename Op::Config& config,
                                              const In&... inputs) {
  return detail::record<Op, sizeof...(In)>(ctx, {detail::edge_of(inputs)...}, [&](typename Op::Saved* saved) {
    return Op::forward(ctx, saved, config, detail::value_of(inputs)...);
  });
}

/// inputs: by name, each a Variable or a Tensor.
template <class Op, class NamedInputs>
requires detail::NamesInputs<Op>
auto apply(Context& ctx, const typename Op::Config& config, const NamedInputs& inputs) {
  typename Op::template Inputs<Tensor> values;
  return std::apply(
      [&](const auto&... input) {
        std::apply([&](auto&... value) { ((value = detail::value_of(input)), ...); }, values.all());
        return detail::record<Op, sizeof...(input)>(
            ctx, {detail::edge_of(input)...},
            [&](typename Op::Saved* saved) { return Op::forward(ctx, saved, config, values); });
      },
      inputs.all());
}

}  // namespace headway
