#include "autograd/ops/embedding.h"

#include "kernels/ops/embedding.h"

namespace headway {

Tensor Embedding::forward(Context& ctx, Saved* saved, const Config&, const Tensor& ids,
                          const Tensor& weight) {
  if (saved) *saved = {ids, weight.shape()};
  Shape shape = ids.shape();
  shape.append(weight.size(1));
  const Tensor y = Tensor::empty(shape, weight.dtype(), ctx.device());
  dispatch<double, float, bf16>(weight.dtype(), name, [&]<class T>() {
    launch(EmbeddingForward<T>{.ids = ids.reshape({-1}).view<const int32_t, 1>("ids"),
                               .weight = weight.view<const T, 2>("weight"),
                               .y = y.reshape({-1, weight.size(1)}).view<T, 2>("y")},
           ctx.stream);
  });
  return y;
}

Grads<2> Embedding::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>& needs) {
  if (!needs[1]) return {};
  const DType dtype = accumulator_of(dy.dtype());
  const Tensor dweight = needs[1].tensor(saved.weight_shape, dtype, ctx.device());
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(EmbeddingBackward<T>{.ids = saved.ids.reshape({-1}).view<const int32_t, 1>("ids"),
                                .dy = dy.reshape({-1, dy.size(-1)}).view<const T, 2>("dy"),
                                .dweight = dweight.view<Acc<T>, 2>("dweight"),
                                .accumulate = needs[1].accumulates(dtype)},
           ctx.stream);
  });
  return {Tensor(), dweight};
}

Tensor AddPositions::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                             const Tensor& weight) {
  if (saved) *saved = {config, weight.shape()};
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), ctx.device());
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(AddPositionsForward<T>{.x = x.view<const T, 3>("x"),
                                  .weight = weight.view<const T, 2>("weight"),
                                  .y = y.view<T, 3>("y"),
                                  .positions = config.positions},
           ctx.stream);
  });
  return y;
}

Grads<2> AddPositions::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>& needs) {
  Grads<2> gradients{dy, Tensor()};
  if (!needs[1]) return gradients;
  const DType dtype = accumulator_of(dy.dtype());
  gradients[1] = needs[1].tensor(saved.weight_shape, dtype, ctx.device());
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(AddPositionsBackward<T>{.dy = dy.view<const T, 3>("dy"),
                                   .dweight = gradients[1].view<Acc<T>, 2>("dweight"),
                                   .positions = saved.config.positions,
                                   .accumulate = needs[1].accumulates(dtype)},
           ctx.stream);
  });
  return gradients;
}

}  // namespace headway
