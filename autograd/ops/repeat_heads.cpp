#include "autograd/ops/repeat_heads.h"

#include "autograd/apply.h"
#include "kernels/ops/repeat_heads.h"

namespace headway {
namespace {

struct RepeatHeads {
  static constexpr const char* name = "repeat_heads";
  struct Config {
    int64_t num_heads = 0;
  };
  struct Saved {
    Shape shape;
    auto tensors() const { return std::tie(); }
  };
  static Tensor forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x) {
    if (saved) *saved = {x.shape()};
    Shape shape = x.shape();
    shape[2] = config.num_heads;
    const Tensor y = Tensor::empty(shape, x.dtype(), ctx.device());
    dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
      launch(RepeatHeadsForward<T>{.x = x.view<const T, 4>("x"), .y = y.view<T, 4>("y")}, ctx.stream);
    });
    return y;
  }
  static Grads<1> backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<1>&) {
    const Tensor dx = Tensor::empty(saved.shape, dy.dtype(), ctx.device());
    dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
      launch(RepeatHeadsBackward<T>{.dy = dy.view<const T, 4>("dy"), .dx = dx.view<T, 4>("dx")}, ctx.stream);
    });
    return {dx};
  }
};

}  // namespace

Variable repeat_heads(Context& ctx, const Variable& x, int64_t num_heads) {
  return x.size(2) == num_heads ? x : apply<RepeatHeads>(ctx, {.num_heads = num_heads}, x);
}

}  // namespace headway
