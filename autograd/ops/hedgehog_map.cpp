#include "autograd/ops/hedgehog_map.h"

#include "autograd/ops/linear.h"

namespace headway {

Tensor HedgehogMap::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& u) {
  const Tensor y = Tensor::empty(with_last(u.shape(), 2 * u.size(-1)), u.dtype(), ctx.device());
  dispatch<double, float, bf16>(u.dtype(), name, [&]<class T>() {
    launch(HedgehogMapForward<T>{.features = config.features,
                                 .u = rows_of(u).view<const T, 2>("u"),
                                 .y = rows_of(y).view<T, 2>("y")},
           ctx.stream);
  });
  if (saved) *saved = {y, config};
  return y;
}

Grads<1> HedgehogMap::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<1>&) {
  const Tensor& y = saved.y;
  const Tensor du = Tensor::empty(with_last(y.shape(), y.size(-1) / 2), y.dtype(), ctx.device());
  dispatch<double, float, bf16>(y.dtype(), name, [&]<class T>() {
    launch(HedgehogMapBackward<T>{.features = saved.config.features,
                                  .y = rows_of(y).view<const T, 2>("y"),
                                  .dy = rows_of(dy).view<const T, 2>("dy"),
                                  .du = rows_of(du).view<T, 2>("du")},
           ctx.stream);
  });
  return {du};
}

}  // namespace headway
