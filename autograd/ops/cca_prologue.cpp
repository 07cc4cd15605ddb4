#include "autograd/ops/cca_prologue.h"

#include "autograd/ops/flat.h"

namespace headway {
namespace {

template <class T>
CcaPrologueInputs<T> inputs_of(const CcaPrologue::Saved& s) {
  return {.query = s.query.view<const T, 4>("query"),
          .key = s.key.view<const T, 4>("key"),
          .query_history = s.query_history.optional_view<const T, 4>("query_history"),
          .key_history = s.key_history.optional_view<const T, 4>("key_history"),
          .conv_a = s.conv_a.view<const T, 2>("conv_a"),
          .conv_a_bias = s.conv_a_bias.view<const Acc<T>, 1>("conv_a_bias"),
          .conv_b = s.conv_b.view<const T, 4>("conv_b"),
          .conv_b_bias = s.conv_b_bias.view<const Acc<T>, 1>("conv_b_bias"),
          .temperature = s.temperature.view<const Acc<T>, 1>("temperature"),
          .temperature_kind = s.config.temperature,
          .qk_mean = s.config.qk_mean,
          .eps = s.config.eps};
}

}  // namespace

std::array<Tensor, 2> CcaPrologue::forward(Context& ctx, Saved* saved, const Config& config,
                                           const Tensor& query, const Tensor& key, const Tensor& conv_a,
                                           const Tensor& conv_a_bias, const Tensor& conv_b,
                                           const Tensor& conv_b_bias, const Tensor& temperature,
                                           const Tensor& query_history, const Tensor& key_history) {
  const Saved inputs{query,       key,         conv_a,        conv_a_bias, conv_b,
                     conv_b_bias, temperature, query_history, key_history, config};
  const Tensor q = empty_like(query), k = empty_like(key);
  dispatch<double, float, bf16>(query.dtype(), name, [&]<class T>() {
    launch(CcaPrologueForward<T>{.in = inputs_of<T>(inputs), .q = q.view<T, 4>("q"), .k = k.view<T, 4>("k")},
           ctx.stream);
  });
  if (saved) *saved = inputs;
  return {q, k};
}

Grads<9> CcaPrologue::backward(Context& ctx, const Saved& saved, const Grads<2>& dy, const Needs<9>& needs) {
  const auto or_zeros = [&](const Tensor& gradient, const Tensor& like) {
    return gradient ? gradient : Tensor::zeros(like.shape(), like.dtype(), ctx.stream);
  };
  const Tensor dq = or_zeros(dy[0], saved.query), dk = or_zeros(dy[1], saved.key);
  const DType dtype = accumulator_of(saved.query.dtype());
  const auto parameter = [&](size_t input, const Tensor& like) {
    return needs[input].tensor(like.shape(), dtype, ctx.device());
  };
  Grads<9> gradients{empty_like(saved.query),        empty_like(saved.key),
                     parameter(2, saved.conv_a),     parameter(3, saved.conv_a_bias),
                     parameter(4, saved.conv_b),     parameter(5, saved.conv_b_bias),
                     parameter(6, saved.temperature)};
  dispatch<double, float, bf16>(saved.query.dtype(), name, [&]<class T>() {
    launch(CcaPrologueBackward<T>{.in = inputs_of<T>(saved),
                                  .dq = dq.view<const T, 4>("dq"),
                                  .dk = dk.view<const T, 4>("dk"),
                                  .dquery = gradients[0].view<T, 4>("dquery"),
                                  .dkey = gradients[1].view<T, 4>("dkey"),
                                  .dconv_a = gradients[2].view<Acc<T>, 2>("dconv_a"),
                                  .dconv_a_bias = gradients[3].view<Acc<T>, 1>("dconv_a_bias"),
                                  .dconv_b = gradients[4].view<Acc<T>, 4>("dconv_b"),
                                  .dconv_b_bias = gradients[5].view<Acc<T>, 1>("dconv_b_bias"),
                                  .dtemperature = gradients[6].view<Acc<T>, 1>("dtemperature"),
                                  .accumulate_conv_a = needs[2].accumulates(dtype),
                                  .accumulate_conv_a_bias = needs[3].accumulates(dtype),
                                  .accumulate_conv_b = needs[4].accumulates(dtype),
                                  .accumulate_conv_b_bias = needs[5].accumulates(dtype),
                                  .accumulate_temperature = needs[6].accumulates(dtype)},
           ctx.stream);
  });
  return gradients;
}

}  // namespace headway
