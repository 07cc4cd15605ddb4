// Mixture of heads (arXiv 2410.11842): some heads always work, of the others each token has its best few;
// every working head's output is weighted by a router.
//
//   y = concat over heads of (g_h Y_h) Wo^T,   g from router logits x Wr^T (kernels/ops/moh_gates.h)
//
// A head that a token does not choose still supplies keys and values. The balance loss keeps heads in use.

#include "autograd/apply.h"
#include "autograd/loss_collector.h"
#include "autograd/ops/moh_gates.h"
#include "core/error.h"
#include "kernels/attention/variants/listed_rows.h"
#include "layers/attention/health.h"
#include "layers/attention/softmax_family.h"

namespace headway {
namespace {

struct MohAttentionConfig : AttentionConfigOf<MohAttentionConfig> {
  int64_t shared_heads = 2;
  int64_t top_k = 2;
  std::string gate_mode = "renorm";
  double balance_weight = 0.01;

  void describe_kind(FieldVisitor& v) override {
    v("shared_heads", shared_heads, "heads that every token uses, the first ones", {.min = 0, .max = 1024});
    v("top_k", top_k, "other heads that each token uses", {.min = 1, .max = 1024});
    v("gate_mode", gate_mode,
      "weights of the heads: renorm over the chosen ones (1 at the start), or the paper's plain "
      "probabilities",
      {.choices = {"renorm", "paper"}});
    v("balance_weight", balance_weight,
      "of the balance loss, averaged over the layers that route, in the training loss",
      {.min = 0, .max = 100});
  }
  bool renormalises() const { return gate_mode == "renorm"; }
  void check() const override {
    const int64_t routed = num_heads - shared_heads, fewest = renormalises() ? 2 : 1;
    HEADWAY_CHECK(routed >= 1, ConfigError,
                  "model.attention.shared_heads = " + std::to_string(shared_heads) +
                      ": expected fewer than num_heads = " + std::to_string(num_heads));
    HEADWAY_CHECK(
        top_k >= fewest && top_k <= routed, ConfigError,
        "model.attention.top_k = " + std::to_string(top_k) + ": expected " + std::to_string(fewest) + " to " +
            std::to_string(routed) + ", the heads that are not shared" +
            (renormalises() ? " (one alone would always weigh 1 with gate_mode = \"renorm\")" : ""));
  }
};

class MohLayer final : public SoftmaxFamily<MohAttentionConfig> {
 public:
  MohLayer(const MohAttentionConfig& config, const ModelShape& shape)
      : SoftmaxFamily(config, shape),
        routing_{.shared_heads = config.shared_heads,
                 .top_k = config.top_k,
                 .renormalises = config.renormalises()},
        router_(shape.model_dim, routing_.num_logits(config.num_heads), Init::normal(shape.init_std), false) {
    add_child("router", router_);
  }

  /// Scores are those of the heads that a token uses; the tokens of a routed head are taken to be spread
  /// evenly.
  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = SoftmaxFamily::cost(batch, tokens, value_bytes);
    const auto rows = static_cast<double>(batch * tokens), H = static_cast<double>(config().num_heads);
    const double routed = H - static_cast<double>(config().shared_heads),
                 share = static_cast<double>(config().top_k) / routed;
    const auto spare = [&](Flop& flop, double pairs) {
      flop += -routed / H * softmax_core_flop(config(), batch, pairs);
    };
    spare(cost.ideal_flop, (1 - share) * visible_pairs(tokens, config().window));
    spare(cost.executed_flop,
          executed_pairs(tokens, config().window) - executed_pairs(tokens, config().window, share));
    const double router =
        2 * rows * static_cast<double>(shape().model_dim * routing_.num_logits(config().num_heads));
    cost.add({router, 2 * router});
    // logits, gates and lists
    cost.saved_bytes +=
        rows * (static_cast<double>(value_bytes * routing_.num_logits(config().num_heads)) + (4 + 4) * H);
    return cost;
  }

  bool chooses() const override { return true; }

 private:
  Variable attend(Context& ctx, const Variable& x, SoftmaxInputs inputs, int64_t query_offset) override {
    const auto [gates, balance_loss, row_index] =
        apply<MohGates>(ctx, {.routing = routing_, .num_heads = config().num_heads}, router_.forward(ctx, x));
    if (ctx.metrics) report_head_load(ctx, gates.value(), config().shared_heads);
    if (ctx.auxiliary && ctx.training)
      ctx.auxiliary->add({.name = "balance_loss", .loss = balance_loss, .weight = config().balance_weight});
    inputs.row_scale = gates;
    inputs.row_index = row_index.value();
    return softmax<attention::ListedRows>(ctx, inputs, {.window = window()}, query_offset);
  }

  MohConfig routing_;
  LinearLayer router_;
};

HEADWAY_ATTENTION(moh, "Mixture of heads: shared heads, and for each token the best of the others",
                  "arXiv 2410.11842", MohAttentionConfig, MohLayer);

}  // namespace
}  // namespace headway
