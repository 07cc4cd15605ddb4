#include "autograd/ops/linear_attention.h"

#include "autograd/ops/flat.h"
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

}  // namespace headway
