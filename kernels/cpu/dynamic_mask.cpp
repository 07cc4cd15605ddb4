#include "kernels/ops/dynamic_mask.h"

#include <cmath>
#include <functional>
#include <limits>
#include <queue>
#include <utility>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

/// log(1 + exp(x)) without overflow.
template <class S>
S softplus(S x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

template <class T>
void dynamic_mask_forward(const DynamicMaskForward<T>& args, Stream&) {
  const int64_t B = args.u.size[0], length = args.u.size[1], K = args.u.size[2];
#pragma omp parallel for collapse(2) if (args.u.numel() >= kSmallestParallel)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t k = 0; k < K; ++k) {
      // The kept keys, the worst on top; of equal scores the older is worse.
      using Key = std::pair<T, int64_t>;
      std::priority_queue<Key, std::vector<Key>, std::greater<>> kept;
      for (int64_t j = 0; j < length; ++j) {
        const T a = args.rate(k) * softplus(args.u(b, j, k));
        args.key_bias(b, k, j) = args.exponential ? std::exp(a) : a;
        args.key_end(b, k, j) = kNeverDropped;
        // What is no number is never dropped, so that it shows.
        kept.emplace(std::isnan(a) ? std::numeric_limits<T>::infinity() : a, j);
        if (static_cast<int64_t>(kept.size()) <= args.top_w) continue;
        args.key_end(b, k, kept.top().second) = static_cast<int32_t>(j);
        kept.pop();
      }
    }
}

template <class T>
void dynamic_mask_backward(const DynamicMaskBackward<T>& args, Stream&) {
  const int64_t B = args.u.size[0], length = args.u.size[1], K = args.u.size[2];
#pragma omp parallel for if (args.u.numel() >= kSmallestParallel)
  for (int64_t k = 0; k < K; ++k) {
    T drate = 0;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t j = 0; j < length; ++j) {
        const T u = args.u(b, j, k), positive = softplus(u);
        const T da = args.dkey_bias(b, k, j) * (args.exponential ? std::exp(args.rate(k) * positive) : T(1));
        args.du(b, j, k) = da * args.rate(k) / (1 + std::exp(-u));
        drate += da * positive;
      }
    args.drate(k) = drate;
  }
}

HEADWAY_KERNEL(cpu, dynamic_mask_forward<float>);
HEADWAY_KERNEL(cpu, dynamic_mask_forward<double>);
HEADWAY_KERNEL(cpu, dynamic_mask_backward<float>);
HEADWAY_KERNEL(cpu, dynamic_mask_backward<double>);

}  // namespace
}  // namespace headway
