#include "layers/model.h"

#include <algorithm>
#include <cmath>

#include "autograd/apply.h"
#include "autograd/ops/argmax.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/linear_cross_entropy.h"
#include "autograd/recompute.h"
#include "core/comm/sequence_split.h"

namespace headway {
namespace {

/// x [B,T,D] -> [B,D], its last token.
Tensor last_token(const Tensor& x, Stream& stream) {
  const int64_t B = x.size(0), T = x.size(1), D = x.size(2);
  const Tensor last = Tensor::empty({B, D}, x.dtype(), x.device());
  for (int64_t b = 0; b < B; ++b)
    last.slice(0, b, b + 1).copy_from(x.slice(0, b, b + 1).slice(1, T - 1, T).reshape({1, D}), stream);
  return last;
}

}  // namespace

Model::Model(const ModelConfig& config)
    : config_(config),
      embedding_(add_parameter("embedding", {config.vocab_size, config.model_dim},
                               Init::normal(config.init_std), true)),
      norm_(NormLayer::parse_style(config.norm), config.model_dim, config.norm_eps, config.bias) {
  if (config.learned_positions) {
    position_embedding_ = &add_parameter("position_embedding", {config.max_seq_len, config.model_dim},
                                         Init::normal(config.init_std), true);
  }
  if (!config.tied_head)
    head_ =
        &add_parameter("head", {config.vocab_size, config.model_dim}, Init::normal(config.init_std), true);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    blocks_.push_back(std::make_unique<Block>(config, i));
    add_child("blocks/" + std::to_string(i), *blocks_.back());
  }
  add_child("norm", norm_);
}

Context Model::inference(const Context& ctx) const {
  Context result = ctx;
  result.row_invariant =
      !ctx.training && !ctx.recording &&
      std::ranges::any_of(blocks_, [](const auto& block) { return block->attention().chooses(); });
  return result;
}

Variable Model::embed(Context& ctx, const Tensor& tokens, const Positions& where) const {
  Variable x = apply<Embedding>(ctx, {}, tokens, embedding_.variable());
  if (config_.scale_embedding)
    x = apply<Scale>(ctx, {.factor = std::sqrt(static_cast<double>(config_.model_dim))}, x);
  if (position_embedding_)
    x = apply<AddPositions>(ctx, {.positions = where.of_tokens()}, x, position_embedding_->variable());
  return dropout(ctx, x, config_.dropout);
}

Positions Model::positions(const Context& ctx, int64_t offset, int64_t count) {
  if (!ctx.split) return {offset, count, &rope_tables_};
  const auto [first, before_gap, skipped] = ctx.split->positions(count);
  return {first, count, &rope_tables_, before_gap, skipped};
}

Variable Model::hidden(Context& outer, const Tensor& tokens, Recompute recompute_mode) {
  Context ctx = inference(outer);
  const Positions where = positions(ctx, 0, tokens.size(1));
  Variable x = embed(ctx, tokens, where);
  for (const auto& block : blocks_) {
    const BlockFunction run = [&block = *block, where](Context& c, const Variable& input) {
      return block.forward(c, input, where, nullptr);
    };
    x = recompute_mode == Recompute::blocks ? recompute(ctx, run, x, block->gradient_buffers()) : run(ctx, x);
  }
  return norm_.forward(ctx, x);
}

Variable Model::loss(Context& ctx, const Tensor& tokens, const Tensor& targets, double loss_scale,
                     Recompute recompute_mode) {
  const Variable x = hidden(ctx, tokens, recompute_mode);
  return apply<LinearCrossEntropy>(ctx, {.loss_scale = loss_scale}, x, head().variable(), targets);
}

Tensor Model::token_losses(Context& ctx, const Tensor& tokens, const Tensor& targets) {
  const Tensor x = hidden(ctx, tokens, Recompute::off).value();
  return LinearCrossEntropy::token_losses(ctx, x, head().compute, targets).reshape(tokens.shape());
}

Tensor Model::predictions(Context& ctx, const Tensor& tokens) {
  constexpr size_t kBlockBytes = size_t{64} << 20;
  const Tensor x = hidden(ctx, tokens, Recompute::off).value();
  const Tensor& weight = head().compute;
  const DType dtype = accumulator_of(weight.dtype());
  const int64_t N = tokens.numel(), V = weight.size(0),
                block = std::max<int64_t>(1, static_cast<int64_t>(kBlockBytes / size_of(dtype)) / V);
  const Tensor rows = x.reshape({N, x.size(2)}), result = Tensor::empty({N}, DType::i32, ctx.device());
  for (int64_t begin = 0; begin < N; begin += block) {
    const int64_t end = std::min(N, begin + block);
    const Tensor logits = Tensor::empty({end - begin, V}, dtype, ctx.device());
    multiply({.a = rows.slice(0, begin, end), .b = weight.transpose(0, 1), .c = logits}, ctx.stream);
    result.slice(0, begin, end).copy_from(argmax_rows(ctx, logits), ctx.stream);
  }
  return result.reshape(tokens.shape());
}

DecodeState Model::make_state(int64_t batch, int64_t capacity, Device device) const {
  DecodeState state;
  for (const auto& block : blocks_)
    state.layers.push_back(
        block->attention().make_state(batch, capacity, embedding_.compute.dtype(), device));
  return state;
}

Tensor Model::next_logits(Context& outer, const Tensor& tokens, DecodeState& state) {
  Context ctx = inference(outer);
  const int64_t count = tokens.size(1);
  const Positions where = positions(ctx, state.num_tokens, count);
  Variable x = embed(ctx, tokens, where);
  for (size_t i = 0; i < blocks_.size(); ++i) x = blocks_[i]->forward(ctx, x, where, state.layers[i].get());
  state.num_tokens += count;
  const Variable last = norm_.forward(ctx, Variable(last_token(x.value(), ctx.stream)));
  const Tensor& weight = head().compute;
  const Tensor logits =
      Tensor::empty({last.size(0), weight.size(0)}, accumulator_of(weight.dtype()), ctx.device());
  multiply({.a = last.value(), .b = weight.transpose(0, 1), .c = logits}, ctx.stream);
  return logits;
}

int64_t Model::num_parameters() {
  int64_t total = 0;
  visit("", [&](const std::string&, Parameter& parameter) { total += parameter.shape.numel(); });
  return total;
}

}  // namespace headway
