#include "autograd/ops/causal_conv.h"

#include "autograd/ops/flat.h"
#include "kernels/ops/causal_conv.h"

namespace headway {
namespace {

template <class T>
CausalConvInputs<T> inputs_of(const CausalConv::Saved& s) {
  return {.x = s.x.view<const T, 3>("x"),
          .history = s.history.optional_view<const T, 3>("history"),
          .weight = s.weight.view<const T, 2>("weight"),
          .silu = s.config.silu};
}

}  // namespace

Tensor CausalConv::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                           const Tensor& weight, const Tensor& history) {
  const Saved inputs{x, weight, history, config};
  const Tensor y = empty_like(x);
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(CausalConvForward<T>{.in = inputs_of<T>(inputs), .y = y.view<T, 3>("y")}, ctx.stream);
  });
  if (saved) *saved = inputs;
  return y;
}

Grads<3> CausalConv::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<3>& needs) {
  const DType dtype = accumulator_of(saved.x.dtype());
  Grads<3> gradients{empty_like(saved.x), needs[1].tensor(saved.weight.shape(), dtype, ctx.device()),
                     saved.history && needs[2] ? empty_like(saved.history) : Tensor()};
  dispatch<double, float, bf16>(saved.x.dtype(), name, [&]<class T>() {
    launch(CausalConvBackward<T>{.in = inputs_of<T>(saved),
                                 .dy = dy.view<const T, 3>("dy"),
                                 .dx = gradients[0].view<T, 3>("dx"),
                                 .dhistory = gradients[2].optional_view<T, 3>("dhistory"),
                                 .dweight = gradients[1].view<Acc<T>, 2>("dweight"),
                                 .accumulate_weight = needs[1].accumulates(dtype)},
           ctx.stream);
  });
  return gradients;
}

}  // namespace headway
