#include "autograd/ops/hedgehog_map.h"

#include "autograd/ops/linear.h"

namespace headway {

Tensor HedgehogMap::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& u,
                            const Tensor& shift) {
  const Tensor y = Tensor::empty(with_last(u.shape(), 2 * u.size(-1)), u.dtype(), ctx.device());
  const Tensor rows = shift ? shift.reshape({-1}) : Tensor();
  dispatch<double, float, bf16>(u.dtype(), name, [&]<class T>() {
    launch(HedgehogMapForward<T>{.features = config.features,
                                 .u = rows_of(u).view<const T, 2>("u"),
                                 .shift = rows.optional_view<const Acc<T>, 1>("shift"),
                                 .y = rows_of(y).view<T, 2>("y")},
           ctx.stream);
  });
  if (saved) *saved = {y, config};
  return y;
}

Grads<2> HedgehogMap::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>&) {
  const Tensor& y = saved.y;
  const Tensor du = Tensor::empty(with_last(y.shape(), y.size(-1) / 2), y.dtype(), ctx.device());
  dispatch<double, float, bf16>(y.dtype(), name, [&]<class T>() {
    launch(HedgehogMapBackward<T>{.features = saved.config.features,
                                  .y = rows_of(y).view<const T, 2>("y"),
                                  .dy = rows_of(dy).view<const T, 2>("dy"),
                                  .du = rows_of(du).view<T, 2>("du")},
           ctx.stream);
  });
  return {du, Tensor()};
}

HedgehogShifts hedgehog_shifts(Context& ctx, const Tensor& query, const Tensor& key, const Tensor& before,
                               double eps) {
  const DType dtype = accumulator_of(key.dtype());
  const Shape tokens{key.size(0), key.size(1), key.size(2)};
  const auto empty = [&](const Shape& shape) { return Tensor::empty(shape, dtype, ctx.device()); };
  const HedgehogShifts shifts{empty(tokens), empty(tokens), empty(tokens), empty(tokens),
                              empty({key.size(0), key.size(2)})};
  // Without a shift a denominator is at least exp(-bound). `smallest` is far below that, and its inverse
  // times exp(bound) far from overflow.
  const bool wide = dtype == DType::f64;
  const double bound = wide ? 300 : 20, smallest = wide ? 1e-145 : 1e-20;
  dispatch<double, float, bf16>(key.dtype(), "hedgehog_shifts", [&]<class T>() {
    launch(HedgehogShift<T>{.query = query.view<const T, 4>("query"),
                            .key = key.view<const T, 4>("key"),
                            .before = before.optional_view<const Acc<T>, 2>("before"),
                            .bound = bound,
                            .eps = eps,
                            .smallest = smallest,
                            .query_shift = shifts.query.view<Acc<T>, 3>("query_shift"),
                            .key_shift = shifts.key.view<Acc<T>, 3>("key_shift"),
                            .log_decay = shifts.log_decay.view<Acc<T>, 3>("log_decay"),
                            .token_eps = shifts.token_eps.view<Acc<T>, 3>("token_eps"),
                            .after = shifts.after.view<Acc<T>, 2>("after")},
           ctx.stream);
  });
  return shifts;
}

}  // namespace headway
