// Variants and random problems for the tests of the softmax core: the product's variants, and combinations of
// slots and policies that together use every hole.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "core/rng.h"
#include "kernels/attention/softmax.h"
#include "kernels/attention/weight_dropout.h"
#include "tests/kernels/attention/policies.h"
#include "tests/kernels/attention/product_variants.h"
#include "tests/support/guarded.h"

namespace headway::testing {

/// The product's variants, and policies of the tests.
template <class... Products>
using WithPolicies = ::testing::Types<Products..., SoftCap, FirstAndWindow, Documents, SigmoidWeights,
                                      SecondOrderWeights, Buckets, Everything>;
using EveryVariant = ProductVariants<WithPolicies>;

/// These, and two with dropout of their weights.
template <class... Products>
using WithPoliciesAndDropout =
    ::testing::Types<Products..., SoftCap, FirstAndWindow, Documents, SigmoidWeights, SecondOrderWeights,
                     Buckets, Everything, WithDropout<SigmoidWeights>, WithDropout<attention::Plain>,
                     WithDropout<Everything>>;
using AllVariants = ProductVariants<WithPoliciesAndDropout>;

/// Parameters under which a variant is tested: its defaults, but for a window.
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
  else if constexpr (std::is_same_v<V, SigmoidWeights>)
    return {.bias = -2};
  else if constexpr (std::is_same_v<V, Documents>)
    return {.length = 5};
  else
    return {};
}

struct Dims {
  int64_t B, T, H, K, Dh;
  int64_t Tk = T;
  int64_t query_offset = 0;
  int64_t Dv = Dh;
  int64_t P = 1;  // parameters of a head
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
struct Problem : SoftmaxRecord<Tensor> {
  Dims dims;
  Tensor dout;
  typename V::Params params = params_of<V>();

  SlotViews<T> slots() const {
    SlotViews<T> views;
    for_each_slot(
        []<class Slot, class Number, int rank>(Slot, View<Number, rank>& view, const Tensor& input) {
          view = input.optional_view<Number, rank>(Slot::info.name);
        },
        views, *this);
    return views;
  }
  double scale() const { return 1 / std::sqrt(static_cast<double>(dims.Dh)); }
};

/// Of a slot, in a problem of these sizes; a list of rows may name all.
template <class Slot>
Shape slot_shape(const Dims& d) {
  const int64_t sizes[] = {d.B, d.H, d.K, d.T, d.Tk, d.P, d.T};  // in the order of Extent
  Shape shape;
  for (int dim = 0; dim < Slot::info.rank; ++dim)
    shape.append(sizes[static_cast<size_t>(Slot::info.shape[dim])]);
  return shape;
}

/// Lives of 0 to 40 tokens; the first key of each head is never seen.
inline std::vector<int32_t> random_key_ends(const Dims& d, const RandomKey& key) {
  std::vector<int32_t> ends(static_cast<size_t>(d.B * d.K * d.Tk));
  for (size_t i = 0; i < ends.size(); ++i) {
    const int32_t j = static_cast<int32_t>(i % static_cast<size_t>(d.Tk));
    ends[i] = j == 0 ? 0 : j + static_cast<int32_t>(random_bits(key, i) % 41);
  }
  return ends;
}

/// About two rows of three, another choice for each head.
inline std::vector<int32_t> random_row_lists(const Dims& d, const RandomKey& key) {
  std::vector<int32_t> rows;
  for (int64_t head = 0; head < d.B * d.H; ++head) {
    for (int32_t t = 0; t < d.T; ++t)
      if (random_bits(key, static_cast<uint64_t>(head * d.T + t)) % 3 != 0) rows.push_back(t);
    rows.resize(static_cast<size_t>((head + 1) * d.T), -1);
  }
  return rows;
}

template <class V>
Problem<V, double> random_problem(const Dims& d, Stream& stream, uint32_t seed = kProblemSeed) {
  const auto random = [&](const Shape& shape, uint32_t id) { return random_tensor(shape, id, stream, seed); };
  Problem<V, double> p;
  p.dims = d;
  p.dims.P = V::num_head_parameters(p.params);
  if constexpr (V::drops_weights) {
    Rng rng(seed);
    rng.begin(3, 5);
    p.params.dropout = WeightDropout::next(rng, 0.4, d.H, d.T, d.Tk);
  }
  // q, k and v are parts of one tensor, as after a fused projection: strided views.
  const Tensor fused = random({d.B, std::max(d.T, d.Tk), d.H + 2 * d.K, std::max(d.Dh, d.Dv)}, 1);
  p.q = fused.slice(1, 0, d.T).slice(2, 0, d.H).slice(3, 0, d.Dh);
  p.k = fused.slice(1, 0, d.Tk).slice(2, d.H, d.H + d.K).slice(3, 0, d.Dh);
  p.v = fused.slice(1, 0, d.Tk).slice(2, d.H + d.K, d.H + 2 * d.K).slice(3, 0, d.Dv);
  p.dout = random({d.B, d.T, d.H, d.Dv}, 2);
  for_each_slot(
      [&]<class Slot>(Slot, Tensor& slot) {
        if (!has(V::slots, Slot::info.bit)) return;
        const Shape shape = slot_shape<Slot>(p.dims);
        constexpr uint32_t kId = 3 + Slot::index;
        if constexpr (Slot::info.number == SlotNumber::real)
          slot = random(shape, kId);
        else
          slot =
              Tensor::from<int32_t>(Slot::info.bit == Slots::key_end ? random_key_ends(d, {seed, 0, kId, 0})
                                                                     : random_row_lists(d, {seed, 0, kId, 0}),
                                    shape, stream);
      },
      p);
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
  Problem<V, float> single;
  single.dims = p.dims;
  single.params = p.params;
  single.q = compact(p.q), single.k = compact(p.k), single.v = compact(p.v);
  single.dout = converted<float>(p.dout, stream);
  for_each_slot(
      [&]<class Slot>(Slot, Tensor& to, const Tensor& from) {
        to = Slot::info.number == SlotNumber::real ? converted<float>(from, stream) : from;
      },
      single, p);
  return single;
}

/// Outputs and gradients, by name, in the order they were written.
struct NamedTensor {
  std::string name;
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
  const Guarded<T> o({d.B, d.T, d.H, d.Dv}), y({d.B, d.T, d.H, d.Dv}), log_sum_exp({d.B, d.H, d.T});
  const Guarded<T> dq({d.B, d.T, d.H, d.Dh}), dk({d.B, d.Tk, d.K, d.Dh}), dv({d.B, d.Tk, d.K, d.Dv});
  const auto view4 = [](const auto& guarded) { return guarded.tensor().template view<T, 4>("output"); };
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
  SoftmaxBackward<V, T> backward_args{.q = q,
                                      .k = k,
                                      .v = v,
                                      .slots = p.slots(),
                                      .params = p.params,
                                      .scale = p.scale(),
                                      .query_offset = d.query_offset,
                                      .y = kKeepsY<V> ? view4(y) : view4(o),
                                      .log_sum_exp = forward_args.log_sum_exp,
                                      .dout = p.dout.template view<const T, 4>("dout"),
                                      .dq = view4(dq),
                                      .dk = view4(dk),
                                      .dv = view4(dv)};
  std::vector<std::pair<std::string, Guarded<T>>> dslots;
  for_each_slot_with_gradient(
      [&]<class Slot>(Slot, auto& view) {
        if (!has(V::slots, Slot::info.bit)) return;
        dslots.emplace_back(std::string("d") + Slot::info.name, Guarded<T>(slot_shape<Slot>(d)));
        view = dslots.back().second.tensor().template view<T, Slot::info.rank>(Slot::info.name);
      },
      backward_args.dslots);
  backward_args.check();
  backward(backward_args, stream);

  Results results;
  const auto keep = [&](const std::string& name, const Guarded<T>& guarded, bool is_written = true) {
    guarded.expect_untouched_margins(name.c_str());
    if (is_written) results.tensors.push_back({name, guarded.tensor()});
  };
  keep("o", o), keep("log_sum_exp", log_sum_exp), keep("y", y, kScalesRows<V>);
  keep("dq", dq), keep("dk", dk), keep("dv", dv);
  for (const auto& [name, guarded] : dslots) keep(name, guarded);
  return results;
}

}  // namespace headway::testing
