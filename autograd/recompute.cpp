#include "autograd/recompute.h"

#include "autograd/engine.h"
#include "autograd/loss_collector.h"

namespace headway {
namespace {

/// Outputs: the block's, then one per auxiliary loss. Inputs: the block's input, then the parameters.
struct RecomputeNode final : Node {
  explicit RecomputeNode(int num_outputs) : Node("recompute", num_outputs) {}

  void backward(Context& ctx, std::span<const Tensor> doutputs, std::span<const GradTarget>,
                std::span<Tensor> dinputs) override {
    const uint32_t position_after = ctx.rng.position();
    ctx.rng.rewind(rng_position);
    LossCollector auxiliary;
    Context inner = ctx;
    inner.recording = true;
    inner.recomputing = true;
    inner.auxiliary = &auxiliary;
    inner.metrics = nullptr;

    auto input_gradient = std::make_shared<GradBuffer>();
    input_gradient->dtype = input.dtype();
    std::vector<Variable> roots{block(inner, Variable::leaf(input, input_gradient))};
    for (const AuxiliaryLoss& loss : auxiliary.losses()) roots.push_back(loss.loss);
    HEADWAY_CHECK(roots.size() == doutputs.size(), ShapeError,
                  "recompute: the block added another number of auxiliary losses when it ran again");
    std::vector<Variable> used_roots;
    std::vector<Tensor> seeds;
    for (size_t i = 0; i < roots.size(); ++i) {
      if (!doutputs[i]) continue;
      used_roots.push_back(std::move(roots[i]));
      seeds.push_back(doutputs[i]);
    }
    // The outer pass counts these parameters as inputs of this node, so it tells when they are final.
    headway::backward(inner, used_roots, seeds, MicroStep::more_follow);
    dinputs[0] = input_gradient->grad;
    ctx.rng.rewind(position_after);
  }
  void release() override {
    input = Tensor();
    block = nullptr;
  }
  void visit_saved(const std::function<void(const Tensor&)>& visit) const override { visit(input); }

  Tensor input;
  BlockFunction block;
  uint32_t rng_position = 0;
};

}  // namespace

Variable recompute(Context& ctx, const BlockFunction& block, const Variable& input,
                   const std::vector<std::shared_ptr<GradBuffer>>& parameters) {
  if (!ctx.recording) return block(ctx, input);
  const uint32_t rng_position = ctx.rng.position();
  LossCollector auxiliary;
  Context inner = ctx;
  inner.recording = false;
  inner.auxiliary = &auxiliary;
  const Variable output = block(inner, Variable(input.value()));

  const auto node = std::make_shared<RecomputeNode>(static_cast<int>(1 + auxiliary.losses().size()));
  node->input = input.value();
  node->block = block;
  node->rng_position = rng_position;
  node->inputs.push_back(input.edge());
  for (const auto& parameter : parameters) node->inputs.push_back(Edge{nullptr, 0, parameter});

  for (size_t i = 0; i < auxiliary.losses().size(); ++i) {
    AuxiliaryLoss loss = auxiliary.losses()[i];
    loss.loss = Variable(loss.loss.value(), Edge{node, static_cast<int>(i + 1), nullptr});
    if (ctx.auxiliary) ctx.auxiliary->add(std::move(loss));
  }
  return Variable(output.value(), Edge{node, 0, nullptr});
}

}  // namespace headway
