#include "autograd/ops/linear_attention.h"

#include "autograd/ops/flat.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/segments.h"
#include "kernels/ops/linear_attention.h"

namespace headway {
namespace {

template <class T>
LinearAttentionInputs<T> inputs_of(const LinearAttention::Saved& s) {
  return {.q = s.q.view<const T, 4>("q"),
          .k = s.k.view<const T, 4>("k"),
          .v = s.v.view<const T, 4>("v"),
          .norm_q = s.norm_q.optional_view<const T, 4>("norm_q"),
          .norm_k = s.norm_k.optional_view<const T, 4>("norm_k"),
          .state = s.state.optional_view<const Acc<T>, 4>("state"),
          .slope = s.slope.optional_view<const Acc<T>, 1>("slope"),
          .log_decay = s.log_decay.optional_view<const Acc<T>, 3>("log_decay"),
          .token_eps = s.token_eps.optional_view<const Acc<T>, 3>("token_eps"),
          .normalise = s.config.normalise,
          .eps = s.config.eps};
}

}  // namespace

std::array<Tensor, 2> LinearAttention::forward(Context& ctx, Saved* saved, const Config& config,
                                               const Tensor& q, const Tensor& k, const Tensor& v,
                                               const Tensor& norm_q, const Tensor& norm_k,
                                               const Tensor& state, const Tensor& slope,
                                               const Tensor& log_decay, const Tensor& token_eps) {
  const DType accumulator = accumulator_of(q.dtype());
  const int64_t width = v.size(3) + (config.normalise ? 1 : 0);
  const Tensor o = empty_like(v);
  const Tensor next = Tensor::empty({q.size(0), q.size(2), q.size(3), width}, accumulator, ctx.device());
  Tensor denominator;
  if (config.normalise)
    denominator = Tensor::empty({q.size(0), q.size(1), q.size(2)}, accumulator, ctx.device());
  const Saved inputs{q, k, v, norm_q, norm_k, state, slope, log_decay, token_eps, o, denominator, config};
  dispatch<double, float, bf16>(q.dtype(), name, [&]<class T>() {
    launch(LinearAttentionForward<T>{.in = inputs_of<T>(inputs),
                                     .o = o.view<T, 4>("o"),
                                     .denominator = denominator.optional_view<Acc<T>, 3>("denominator"),
                                     .state = next.view<Acc<T>, 4>("state")},
           ctx.stream);
  });
  if (saved) *saved = inputs;
  return {o, next};
}

Grads<9> LinearAttention::backward(Context& ctx, const Saved& saved, const Grads<2>& dy,
                                   const Needs<9>& needs) {
  const auto like_if = [](bool wanted, const Tensor& x) { return wanted ? empty_like(x) : Tensor(); };
  const Tensor dout = dy[0] ? dy[0] : Tensor::zeros(saved.v.shape(), saved.v.dtype(), ctx.stream);
  const bool apart = saved.norm_q.defined();
  const Grads<9> gradients{empty_like(saved.q),     empty_like(saved.k),
                           empty_like(saved.v),     like_if(apart, saved.q),
                           like_if(apart, saved.k), like_if(saved.state && needs[5], saved.state)};
  dispatch<double, float, bf16>(saved.q.dtype(), name, [&]<class T>() {
    launch(LinearAttentionBackward<T>{.in = inputs_of<T>(saved),
                                      .o = saved.o.view<const T, 4>("o"),
                                      .denominator =
                                          saved.denominator.optional_view<const Acc<T>, 3>("denominator"),
                                      .dout = dout.view<const T, 4>("dout"),
                                      .dstate = dy[1].optional_view<const Acc<T>, 4>("dstate"),
                                      .dq = gradients[0].view<T, 4>("dq"),
                                      .dk = gradients[1].view<T, 4>("dk"),
                                      .dv = gradients[2].view<T, 4>("dv"),
                                      .dnorm_q = gradients[3].optional_view<T, 4>("dnorm_q"),
                                      .dnorm_k = gradients[4].optional_view<T, 4>("dnorm_k"),
                                      .dstate_in = gradients[5].optional_view<Acc<T>, 4>("dstate_in")},
           ctx.stream);
  });
  return gradients;
}

namespace {

std::array<Variable, 2> on_this_rank(Context& ctx, const LinearInputs& in,
                                     const LinearAttention::Config& config) {
  return apply<LinearAttention>(ctx, config, in.q, in.k, in.v, in.norm_q, in.norm_k, in.state, in.slope,
                                in.log_decay, in.token_eps);
}

/// Every segment twice: alone, for what it adds to the state, then after the state of those before it. The
/// states travel once, and so do their gradients.
std::array<Variable, 2> on_all_ranks(Context& ctx, const LinearInputs& in,
                                     const LinearAttention::Config& config) {
  HEADWAY_CHECK(!in.state.defined() && !in.log_decay && !in.token_eps, ShapeError,
                "linear_attention: sequences with a state before them, or a decay by token, cannot be split");
  const int64_t segment_length = in.q.size(1) / 2;
  const auto segments = [&](const Variable& x) {
    return x.defined() ? reshape(ctx, x, {2 * x.size(0), segment_length, x.size(2), x.size(3)}) : x;
  };
  LinearInputs each{.q = segments(in.q),
                    .k = segments(in.k),
                    .v = segments(in.v),
                    .norm_q = segments(in.norm_q),
                    .norm_k = segments(in.norm_k),
                    .slope = in.slope};
  // The state does not depend on eps, which keeps the outputs that nobody reads from dividing by zero.
  const Variable added = on_this_rank(ctx, each, {.normalise = config.normalise, .eps = 1})[1];
  each.state = states_before_segments(ctx, added, in.slope, segment_length);
  const auto [o, state] = on_this_rank(ctx, each, config);
  return {reshape(ctx, o, in.v.shape()), state};
}

}  // namespace

std::array<Variable, 2> linear_attention(Context& ctx, const LinearInputs& in,
                                         const LinearAttention::Config& config) {
  return ctx.split ? on_all_ranks(ctx, in, config) : on_this_rank(ctx, in, config);
}

}  // namespace headway
