#include "layers/attention/projections.h"

#include "autograd/ops/reshape.h"
#include "autograd/ops/rope.h"

namespace headway {
namespace {

constexpr double kQkNormEps = 1e-6;

}  // namespace

Projections::Projections(const AttentionConfig& config, const ModelShape& shape,
                         const ShortConvs::Options& short_convs)
    : num_heads_(config.num_heads),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      rotated_dim_(config.rope
                       ? static_cast<int64_t>(config.rope_fraction * static_cast<double>(config.head_dim))
                       : 0),
      rope_theta_(config.rope_theta),
      query_(shape.model_dim, num_heads_ * head_dim_, Init::normal(shape.init_std), config.bias),
      key_(shape.model_dim, num_kv_heads_ * head_dim_, Init::normal(shape.init_std), config.bias),
      value_(shape.model_dim, num_kv_heads_ * head_dim_, Init::normal(shape.init_std), config.bias),
      short_convs_({short_convs, num_heads_ * head_dim_, num_kv_heads_ * head_dim_}) {
  add_child("query", query_);
  add_child("key", key_);
  add_child("value", value_);
  add_child("", short_convs_);
  if (config.qk_norm) {
    query_norm_ = std::make_unique<HeadNorm>(head_dim_, kQkNormEps);
    key_norm_ = std::make_unique<HeadNorm>(head_dim_, kQkNormEps);
    add_child("query_norm", *query_norm_);
    add_child("key_norm", *key_norm_);
  }
}

Variable Projections::heads(Context& ctx, const Variable& rows, int64_t num_heads) const {
  return reshape(ctx, rows, {rows.size(0), rows.size(1), num_heads, head_dim_});
}

Variable Projections::place(Context& ctx, const Variable& heads, const HeadNorm* norm,
                            const Positions& positions) const {
  Tensor table;
  if (rotated_dim_ > 0) table = positions.rope(rope_theta_, rotated_dim_, heads.value().dtype(), ctx.stream);
  if (norm) return norm->forward(ctx, heads, table);
  return table ? apply<Rope>(ctx, {}, heads, table) : heads;
}

QueryKeyValue Projections::project(Context& ctx, const Variable& x, std::vector<RowHistory>* past) const {
  const QueryKeyValue rows =
      short_convs_.forward(ctx, {query_.forward(ctx, x), key_.forward(ctx, x), value_.forward(ctx, x)}, past);
  return {heads(ctx, rows.query, num_heads_), heads(ctx, rows.key, num_kv_heads_),
          heads(ctx, rows.value, num_kv_heads_)};
}

QueryKeyValue Projections::place(Context& ctx, const QueryKeyValue& heads, const Positions& positions) const {
  return {place(ctx, heads.query, query_norm_.get(), positions),
          place(ctx, heads.key, key_norm_.get(), positions), heads.value};
}

QueryKeyValue Projections::forward(Context& ctx, const Variable& x, const Positions& positions,
                                   std::vector<RowHistory>* past) const {
  return place(ctx, project(ctx, x, past), positions);
}

Variable merge_heads(Context& ctx, const Variable& y) {
  return reshape(ctx, y, {y.size(0), y.size(1), y.size(2) * y.size(3)});
}

}  // namespace headway
