// Variants and random problems for the tests of the softmax core: the product's variants, and combinations of
// slots and policies that together use every hole.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/backend.h"
#include "core/rng.h"
#include "kernels/attention/softmax.h"
#include "kernels/attention/variants/key_masked.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/row_affine.h"
#include "kernels/attention/variants/row_scaled.h"
#include "kernels/attention/variants/sink.h"
#include "kernels/attention/variants/sliding_window.h"
#include "kernels/attention/weight_dropout.h"
#include "tests/kernels/attention/policies.h"
#include "tests/support/guarded.h"

namespace headway::testing {

/// Every variant of the product, which variant_test.cpp looks after, and policies of the tests.
using AllVariants =
    ::testing::Types<attention::Plain, attention::SlidingWindow, attention::Sink, attention::RowAffine,
                     attention::RowScaled, attention::KeyMasked, GatheredRows, SoftCap, FirstAndWindow,
                     Documents, Everything, WithDropout<attention::Plain>, WithDropout<Everything>>;

template <class V>
typename V::Params params_of() {
  if constexpr (V::drops_weights)
    return {params_of<typename V::Variant>(), {}};
  else if constexpr (std::is_same_v<typename V::Params, FirstAndWindow::Params>)
    return {.first = 3, .window = 5};
  else if constexpr (requires(typename V::Params params) { params.window; })
    return {.window = 6};
  else if constexpr (std::is_same_v<V, SoftCap>)
    return {.cap = 1.5f};
  else if constexpr (std::is_same_v<V, Documents>)
    return {.length = 5};
  else
    return {};
}

struct Dims {
  int64_t B, T, H, K, Dh;
  int64_t Tk = T;
  int64_t query_offset = 0;
};

constexpr uint32_t kProblemSeed = 20240607;

/// Values that are exact in float, so that a float and a double problem are the same problem.
inline Tensor random_tensor(const Shape& shape, uint32_t stream_id, Stream& stream,
                            uint32_t seed = kProblemSeed) {
  const RandomKey key{.seed = seed, .step = 0, .stream = stream_id, .first_element = 0};
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(normal(key, i));
  return Tensor::from<double>(values, shape, stream);
}

template <class T>
Tensor converted(const Tensor& tensor, Stream& stream) {
  if (!tensor) return {};
  const std::vector<double> from = tensor.to_vector<double>(stream);
  return Tensor::from<T>(std::vector<T>(from.begin(), from.end()), tensor.shape(), stream);
}

/// Inputs and the upstream gradient of one call, of float or double.
template <class V, class T>
struct Problem {
  Dims dims;
  Tensor q, k, v, dout;
  Tensor row_scale, row_bias, key_bias, key_end, row_index, sink;
  typename V::Params params = params_of<V>();

  SlotViews<T> slots() const {
    return {.row_scale = row_scale.optional_view<const T, 3>("row_scale"),
            .row_bias = row_bias.optional_view<const T, 3>("row_bias"),
            .key_bias = key_bias.optional_view<const T, 3>("key_bias"),
            .key_end = key_end.optional_view<const int32_t, 3>("key_end"),
            .row_index = row_index.optional_view<const int32_t, 3>("row_index"),
            .sink = sink.optional_view<const T, 1>("sink")};
  }
  double scale() const { return 1 / std::sqrt(static_cast<double>(dims.Dh)); }
};

template <class V>
Problem<V, double> random_problem(const Dims& d, Stream& stream, uint32_t seed = kProblemSeed) {
  const auto random = [&](const Shape& shape, uint32_t id) { return random_tensor(shape, id, stream, seed); };
  Problem<V, double> p;
  p.dims = d;
  if constexpr (V::drops_weights) {
    Rng rng(seed);
    rng.begin(3, 5);
    p.params.dropout = WeightDropout::next(rng, 0.4, d.H, d.T, d.Tk);
  }
  // q, k and v are parts of one tensor, as after a fused projection: strided views.
  const Tensor fused = random({d.B, std::max(d.T, d.Tk), d.H + 2 * d.K, d.Dh}, 1);
  p.q = fused.slice(1, 0, d.T).slice(2, 0, d.H);
  p.k = fused.slice(1, 0, d.Tk).slice(2, d.H, d.H + d.K);
  p.v = fused.slice(1, 0, d.Tk).slice(2, d.H + d.K, d.H + 2 * d.K);
  p.dout = random({d.B, d.T, d.H, d.Dh}, 2);
  if (has(V::slots, Slots::row_scale)) p.row_scale = random({d.B, d.H, d.T}, 3);
  if (has(V::slots, Slots::row_bias)) p.row_bias = random({d.B, d.H, d.T}, 4);
  if (has(V::slots, Slots::key_bias)) p.key_bias = random({d.B, d.K, d.Tk}, 5);
  if (has(V::slots, Slots::sink)) p.sink = random({d.H}, 6);
  if (has(V::slots, Slots::key_end)) {  // lives of 0 to 40 tokens; the first key of each head is never seen
    const RandomKey key{.seed = seed, .step = 0, .stream = 7, .first_element = 0};
    std::vector<int32_t> ends(static_cast<size_t>(d.B * d.K * d.Tk));
    for (size_t i = 0; i < ends.size(); ++i) {
      const int32_t j = static_cast<int32_t>(i % static_cast<size_t>(d.Tk));
      ends[i] = j == 0 ? 0 : j + static_cast<int32_t>(random_bits(key, i) % 41);
    }
    p.key_end = Tensor::from<int32_t>(ends, {d.B, d.K, d.Tk}, stream);
  }
  if (has(V::slots, Slots::row_index)) {  // about two rows of three, another choice for each head
    const RandomKey key{.seed = seed, .step = 0, .stream = 8, .first_element = 0};
    std::vector<int32_t> rows;
    for (int64_t head = 0; head < d.B * d.H; ++head) {
      for (int32_t t = 0; t < d.T; ++t)
        if (random_bits(key, static_cast<uint64_t>(head * d.T + t)) % 3 != 0) rows.push_back(t);
      rows.resize(static_cast<size_t>((head + 1) * d.T), -1);
    }
    p.row_index = Tensor::from<int32_t>(rows, {d.B, d.H, d.T}, stream);
  }
  return p;
}

/// The same problem in float, with q, k and v in memory of their own.
template <class V>
Problem<V, float> in_float(const Problem<V, double>& p, Stream& stream) {
  const auto compact = [&](const Tensor& x) {
    const auto view = x.view<const double, 4>("x");
    const Tensor y = Tensor::empty(x.shape(), DType::f32, Device{});
    float* to = y.data<float>();
    for (int64_t b = 0; b < x.size(0); ++b)
      for (int64_t t = 0; t < x.size(1); ++t)
        for (int64_t h = 0; h < x.size(2); ++h)
          for (int64_t d = 0; d < x.size(3); ++d) *to++ = static_cast<float>(view(b, t, h, d));
    return y;
  };
  return {.dims = p.dims,
          .q = compact(p.q),
          .k = compact(p.k),
          .v = compact(p.v),
          .dout = converted<float>(p.dout, stream),
          .row_scale = converted<float>(p.row_scale, stream),
          .row_bias = converted<float>(p.row_bias, stream),
          .key_bias = converted<float>(p.key_bias, stream),
          .key_end = p.key_end,
          .row_index = p.row_index,
          .sink = converted<float>(p.sink, stream),
          .params = p.params};
}

/// Outputs and gradients, by name, in the order they were written.
struct NamedTensor {
  const char* name;
  Tensor tensor;
};
struct Results {
  std::vector<NamedTensor> tensors;

  bool contains(std::string_view name) const { return find(name) != tensors.end(); }
  const Tensor& operator[](std::string_view name) const {
    if (!contains(name)) throw std::out_of_range(std::string(name));
    return find(name)->tensor;
  }

 private:
  std::vector<NamedTensor>::const_iterator find(std::string_view name) const {
    return std::ranges::find(tensors, name, &NamedTensor::name);
  }
};

/// Runs both directions, or only forward where backward is null, on poisoned, guarded memory.
template <class V, class T>
Results run(const Problem<V, T>& p, void (*forward)(const SoftmaxForward<V, T>&, Stream&),
            void (*backward)(const SoftmaxBackward<V, T>&, Stream&), Stream& stream) {
  const Dims& d = p.dims;
  const Guarded<T> o({d.B, d.T, d.H, d.Dh}), y({d.B, d.T, d.H, d.Dh}), log_sum_exp({d.B, d.H, d.T});
  const Guarded<T> dq({d.B, d.T, d.H, d.Dh}), dk({d.B, d.Tk, d.K, d.Dh}), dv({d.B, d.Tk, d.K, d.Dh});
  const Guarded<T> drow_scale({d.B, d.H, d.T}), drow_bias({d.B, d.H, d.T}), dkey_bias({d.B, d.K, d.Tk}),
      dsink({d.H});
  const auto view4 = [](const auto& guarded) { return guarded.tensor().template view<T, 4>("output"); };
  const auto slot = [](const auto& guarded, Slots which) {
    return has(V::slots, which) ? guarded.tensor().template view<T, 3>("slot") : View<T, 3>{};
  };
  const auto q = p.q.template view<const T, 4>("q"), k = p.k.template view<const T, 4>("k"),
             v = p.v.template view<const T, 4>("v");

  const SoftmaxForward<V, T> forward_args{
      .q = q,
      .k = k,
      .v = v,
      .slots = p.slots(),
      .params = p.params,
      .scale = p.scale(),
      .query_offset = d.query_offset,
      .o = view4(o),
      .log_sum_exp = log_sum_exp.tensor().template view<T, 3>("log_sum_exp"),
      .y = view4(y)};
  forward_args.check();
  forward(forward_args, stream);
  if (!backward) return {{{"o", o.tensor()}, {"log_sum_exp", log_sum_exp.tensor()}}};
  const SoftmaxBackward<V, T> backward_args{
      .q = q,
      .k = k,
      .v = v,
      .slots = p.slots(),
      .params = p.params,
      .scale = p.scale(),
      .query_offset = d.query_offset,
      .y = kScalesRows<V> ? view4(y) : view4(o),
      .log_sum_exp = forward_args.log_sum_exp,
      .dout = p.dout.template view<const T, 4>("dout"),
      .dq = view4(dq),
      .dk = view4(dk),
      .dv = view4(dv),
      .drow_scale = slot(drow_scale, Slots::row_scale),
      .drow_bias = slot(drow_bias, Slots::row_bias),
      .dkey_bias = slot(dkey_bias, Slots::key_bias),
      .dsink = has(V::slots, Slots::sink) ? dsink.tensor().template view<T, 1>("dsink") : View<T, 1>{}};
  backward_args.check();
  backward(backward_args, stream);

  Results results;
  const auto keep = [&](const char* name, const Guarded<T>& guarded, bool is_written = true) {
    guarded.expect_untouched_margins(name);
    if (is_written) results.tensors.push_back({name, guarded.tensor()});
  };
  keep("o", o), keep("log_sum_exp", log_sum_exp), keep("y", y, kScalesRows<V>);
  keep("dq", dq), keep("dk", dk), keep("dv", dv);
  keep("drow_scale", drow_scale, has(V::slots, Slots::row_scale));
  keep("drow_bias", drow_bias, has(V::slots, Slots::row_bias));
  keep("dkey_bias", dkey_bias, has(V::slots, Slots::key_bias));
  keep("dsink", dsink, has(V::slots, Slots::sink));
  return results;
}

}  // namespace headway::testing
