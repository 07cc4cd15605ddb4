#include "autograd/ops/dynamic_mask.h"

#include "autograd/ops/flat.h"
#include "kernels/ops/dynamic_mask.h"

namespace headway {

std::array<Tensor, 2> DynamicMask::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& u,
                                           const Tensor& rate) {
  if (saved) *saved = {u, rate, config};
  const Shape shape{u.size(0), u.size(2), u.size(1)};
  const Tensor key_bias = Tensor::empty(shape, accumulator_of(u.dtype()), ctx.device()),
               key_end = Tensor::empty(shape, DType::i32, ctx.device());
  dispatch<double, float, bf16>(u.dtype(), name, [&]<class T>() {
    launch(DynamicMaskForward<T>{.u = u.view<const T, 3>("u"),
                                 .rate = rate.view<const Acc<T>, 1>("rate"),
                                 .top_w = config.top_w,
                                 .exponential = config.exponential,
                                 .key_bias = key_bias.view<Acc<T>, 3>("key_bias"),
                                 .key_end = key_end.view<int32_t, 3>("key_end")},
           ctx.stream);
  });
  return {key_bias, key_end};
}

Grads<2> DynamicMask::backward(Context& ctx, const Saved& saved, const Grads<2>& dy, const Needs<2>&) {
  const Tensor du = empty_like(saved.u), drate = empty_like(saved.rate);
  dispatch<double, float, bf16>(saved.u.dtype(), name, [&]<class T>() {
    launch(DynamicMaskBackward<T>{.u = saved.u.view<const T, 3>("u"),
                                  .rate = saved.rate.view<const Acc<T>, 1>("rate"),
                                  .exponential = saved.config.exponential,
                                  .dkey_bias = dy[0].view<const Acc<T>, 3>("dkey_bias"),
                                  .du = du.view<T, 3>("du"),
                                  .drate = drate.view<Acc<T>, 1>("drate")},
           ctx.stream);
  });
  return {du, drate};
}

}  // namespace headway
