#include "autograd/ops/moh_gates.h"

#include "autograd/ops/flat.h"

namespace headway {

std::array<Tensor, 3> MohGates::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& z) {
  const auto output = [&](const Shape& shape) {
    return Tensor::empty(shape, accumulator_of(z.dtype()), ctx.device());
  };
  const Tensor gates = output({z.size(0), config.num_heads, z.size(1)}),
               fractions = output({config.num_heads - config.routing.shared_heads}),
               balance_loss = output({1}), row_index = Tensor::empty(gates.shape(), DType::i32, ctx.device());
  dispatch<double, float, bf16>(z.dtype(), name, [&]<class T>() {
    launch(MohGatesForward<T>{.config = config.routing,
                              .z = z.view<const T, 3>("z"),
                              .gates = gates.view<Acc<T>, 3>("gates"),
                              .row_index = row_index.view<int32_t, 3>("row_index"),
                              .fractions = fractions.view<Acc<T>, 1>("fractions"),
                              .balance_loss = balance_loss.view<Acc<T>, 1>("balance_loss")},
           ctx.stream);
  });
  if (saved) *saved = {z, fractions, config};
  return {gates, balance_loss, row_index};
}

Grads<1> MohGates::backward(Context& ctx, const Saved& saved, const Grads<3>& dy, const Needs<1>&) {
  const Tensor dz = empty_like(saved.z);
  dispatch<double, float, bf16>(saved.z.dtype(), name, [&]<class T>() {
    launch(MohGatesBackward<T>{.config = saved.config.routing,
                               .z = saved.z.view<const T, 3>("z"),
                               .fractions = saved.fractions.view<const Acc<T>, 1>("fractions"),
                               .dgates = dy[0].optional_view<const Acc<T>, 3>("dgates"),
                               .dbalance_loss = dy[1].optional_view<const Acc<T>, 1>("dbalance_loss"),
                               .dz = dz.view<T, 3>("dz")},
           ctx.stream);
  });
  return {dz};
}

}  // namespace headway
