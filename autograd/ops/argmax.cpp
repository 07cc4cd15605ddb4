#include "autograd/ops/argmax.h"

#include "kernels/ops/argmax.h"

namespace headway {

Tensor argmax_rows(Context& ctx, const Tensor& x) {
  const Tensor column = Tensor::empty({x.size(0)}, DType::i32, ctx.device());
  dispatch<double, float>(x.dtype(), "argmax_rows", [&]<class T>() {
    launch(ArgmaxRows<T>{.x = x.view<const T, 2>("x"), .column = column.view<int32_t, 1>("column")},
           ctx.stream);
  });
  return column;
}

}  // namespace headway
