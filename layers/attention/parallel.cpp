// Attention layers of several kinds side by side on the same input (Hymba, arXiv 2411.13676, section 2.1 and
// equation 3): each has its own projections, and the root mean square of its outputs is normalised, with a
// learned factor per channel, before they are put together.
//
//   mean:    y = Wo (1/M sum_m RMSNorm_m(f_m(x)))
//   concat:  y = Wo concat_m(RMSNorm_m(f_m(x)))
//
// Hymba's branches share their input projection and write their heads' outputs into the norms; here a member
// is a whole layer, its output projection included, so that every kind can be one.

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/apply.h"
#include "autograd/ops/elementwise.h"
#include "core/error.h"
#include "core/prefixed_metrics.h"
#include "layers/attention/attention_choice.h"
#include "layers/attention/attention_layer.h"
#include "layers/linear.h"
#include "layers/norm.h"

namespace headway {
namespace {

struct ParallelConfig : AttentionConfigOf<ParallelConfig> {
  std::vector<std::string> members{"softmax", "lightning"};
  std::string combine = "mean";
  double norm_eps = 1e-5;
  NamedAttention tables;

  bool has_heads() const override { return false; }
  void describe_kind(FieldVisitor& v) override {
    v("members", members,
      "attention kinds that read the same input side by side; other names are tables with a kind and keys of "
      "their own beside this key");
    v("combine", combine, "how their normalised outputs are put together before the output projection",
      {.choices = {"mean", "concat"}});
    v("norm_eps", norm_eps, "added to the mean square of a member's output", {.min = 0, .max = 1});
    describe_named(v, "model.attention.members", members, *this, tables, "the member of this name");
  }
  void check() const override {
    HEADWAY_CHECK(members.size() >= 2, ConfigError,
                  "model.attention.members has " + std::to_string(members.size()) +
                      " entries: expected two or more for parallel");
    for (auto name = members.begin(); name != members.end(); ++name)
      HEADWAY_CHECK(std::find(members.begin(), name, *name) == name, ConfigError,
                    "model.attention.members names \"" + *name + "\" twice");
    for (const auto& [name, member] : tables)
      HEADWAY_CHECK(member->kind != kind, ConfigError,
                    "model.attention.members has \"" + name + "\" of kind parallel: expected another kind");
  }
  void for_each_member(
      const std::function<void(const std::string& name, AttentionConfig&)>& function) override {
    for (auto& [name, choice] : tables) function(name, *choice);
  }
};

struct ParallelState : AttentionState {
  std::vector<std::unique_ptr<AttentionState>> members;
};

class ParallelLayer final : public AttentionLayer {
 public:
  ParallelLayer(const ParallelConfig& config, const ModelShape& shape) : model_dim_(shape.model_dim) {
    ModelShape inner = shape;  // A member writes into a norm and not into the residual stream.
    inner.output_init_std = shape.init_std;
    for (const std::string& name : config.members) {
      const AttentionConfig& its = *config.tables.at(name);
      members_.emplace_back(name, find_attention(its.kind).make(its, inner), shape.model_dim,
                            config.norm_eps);
      add_child("members/" + name, *members_.back().layer);
      add_child("norms/" + name, members_.back().norm);
    }
    const auto projection = [&] {
      return std::make_unique<LinearLayer>(shape.model_dim, shape.model_dim,
                                           Init::normal(shape.output_init_std), false);
    };
    if (config.combine == "mean") {
      output_ = projection();
      add_child("output", *output_);
      return;
    }
    // Each member has the columns of Wo that its channels are multiplied by.
    for (Member& member : members_) {
      member.output = projection();
      add_child("output/" + member.name, *member.output);
    }
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    auto* const past = static_cast<ParallelState*>(state);
    Variable sum;
    for (size_t m = 0; m < members_.size(); ++m) {
      Member& member = members_[m];
      PrefixedMetrics metrics(ctx.metrics, member.name + "/");
      Context inner = ctx;
      inner.metrics = metrics.sink();
      Variable y = member.norm.forward(
          ctx, member.layer->forward(inner, x, positions, past ? past->members[m].get() : nullptr));
      if (member.output) y = member.output->forward(ctx, y);
      sum = m == 0 ? y : apply<Add>(ctx, {}, sum, y);
    }
    if (!output_) return sum;
    const double share = 1 / static_cast<double>(members_.size());
    return output_->forward(ctx, apply<Scale>(ctx, {.factor = share}, sum));
  }

  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override {
    auto state = std::make_unique<ParallelState>();
    for (const Member& member : members_)
      state->members.push_back(member.layer->make_state(batch, capacity, dtype, device));
    return state;
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost sum;
    const auto rows = static_cast<double>(batch * tokens), D = static_cast<double>(model_dim_);
    for (const Member& member : members_) {
      const Cost cost = member.layer->cost(batch, tokens, value_bytes);
      sum.executed_flop += cost.executed_flop;
      sum.ideal_flop += cost.ideal_flop;
      sum.saved_bytes += cost.saved_bytes + rows * D * static_cast<double>(value_bytes);
      sum.workspace_bytes = std::max(sum.workspace_bytes, cost.workspace_bytes);
    }
    const double projections = 2 * rows * D * D * static_cast<double>(output_ ? 1 : members_.size());
    sum.add({projections, 2 * projections});
    return sum;
  }

  int64_t cache_bytes_per_token(int64_t value_bytes) const override {
    int64_t bytes = 0;
    for (const Member& member : members_) bytes += member.layer->cache_bytes_per_token(value_bytes);
    return bytes;
  }
  int64_t state_bytes(int64_t value_bytes) const override {
    int64_t bytes = 0;
    for (const Member& member : members_) bytes += member.layer->state_bytes(value_bytes);
    return bytes;
  }
  bool chooses() const override {
    return std::ranges::any_of(members_, [](const Member& member) { return member.layer->chooses(); });
  }
  void after_step(Context& ctx, Communicator& comm, const FinishedStep& step) override {
    for (Member& member : members_) member.layer->after_step(ctx, comm, step);
  }

 private:
  struct Member {
    Member(std::string its_name, std::unique_ptr<AttentionLayer> its_layer, int64_t model_dim, double eps)
        : name(std::move(its_name)),
          layer(std::move(its_layer)),
          norm(NormStyle::rms, model_dim, eps, false) {}

    std::string name;
    std::unique_ptr<AttentionLayer> layer;
    NormLayer norm;
    std::unique_ptr<LinearLayer> output;  // null unless combine is "concat"
  };

  int64_t model_dim_;
  std::deque<Member> members_;
  std::unique_ptr<LinearLayer> output_;  // null unless combine is "mean"
};

HEADWAY_ATTENTION(parallel, "Attention layers of several kinds side by side", "arXiv 2411.13676",
                  ParallelConfig, ParallelLayer);

}  // namespace
}  // namespace headway
