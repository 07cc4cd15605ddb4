#include "autograd/ops/attention_transfer.h"

#include "autograd/ops/flat.h"

namespace headway {
namespace {

template <class T>
AttentionTransferInputs<T> inputs_of(const AttentionTransfer::Saved& saved) {
  return {.q = saved.q.view<const T, 4>("q"),
          .k = saved.k.view<const T, 4>("k"),
          .fq = saved.fq.view<const T, 4>("fq"),
          .fk = saved.fk.view<const T, 4>("fk"),
          .scale = saved.config.scale};
}

}  // namespace

Tensor AttentionTransfer::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& q,
                                  const Tensor& k, const Tensor& fq, const Tensor& fk) {
  const DType accumulator = accumulator_of(q.dtype());
  const Tensor divergence = Tensor::empty({q.size(0), q.size(2), q.size(1)}, accumulator, ctx.device());
  const Tensor loss = Tensor::empty({1}, accumulator, ctx.device());
  const Saved inputs{q, k, fq, fk, config};
  dispatch<double, float, bf16>(q.dtype(), name, [&]<class T>() {
    launch(AttentionTransferForward<T>{.in = inputs_of<T>(inputs),
                                       .divergence = divergence.view<Acc<T>, 3>("divergence"),
                                       .loss = loss.view<Acc<T>, 1>("loss")},
           ctx.stream);
  });
  if (saved) *saved = inputs;
  return loss;
}

Grads<4> AttentionTransfer::backward(Context& ctx, const Saved& saved, const Tensor& dloss,
                                     const Needs<4>& needs) {
  HEADWAY_CHECK(!needs[0] && !needs[1], ShapeError, "attention_transfer: the teacher has no gradient");
  const Tensor dfq = empty_like(saved.fq), dfk = empty_like(saved.fk);
  dispatch<double, float, bf16>(saved.q.dtype(), name, [&]<class T>() {
    launch(AttentionTransferBackward<T>{.in = inputs_of<T>(saved),
                                        .dloss = dloss.view<const Acc<T>, 1>("dloss"),
                                        .dfq = dfq.view<T, 4>("dfq"),
                                        .dfk = dfk.view<T, 4>("dfk")},
           ctx.stream);
  });
  return {Tensor(), Tensor(), dfq, dfk};
}

}  // namespace headway
