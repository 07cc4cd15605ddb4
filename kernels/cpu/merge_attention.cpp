#include "kernels/ops/merge_attention.h"

#include <cmath>
#include <limits>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
void merge_attention(const MergeAttention<T>& args, Stream&) {
  using A = Acc<T>;
  constexpr A kNothing = -std::numeric_limits<A>::infinity();
  const int64_t B = args.o.size[0], T_ = args.o.size[1], H = args.o.size[2], Dh = args.o.size[3];
#pragma omp parallel for collapse(2) if (B * T_ * H * Dh >= kSmallestParallel)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T_; ++t)
      for (int64_t h = 0; h < H; ++h) {
        const A lse1 = args.log_sum_exp1(b, h, t), lse2 = args.log_sum_exp2(b, h, t);
        const A largest = lse1 > lse2 ? lse1 : lse2;
        const A base = largest == kNothing ? A(0) : largest;
        const A weight1 = std::exp(lse1 - base), weight2 = std::exp(lse2 - base), sum = weight1 + weight2;
        const A inverse = sum > 0 ? 1 / sum : A(0);
        args.log_sum_exp(b, h, t) = sum > 0 ? base + std::log(sum) : kNothing;
        const T *o1 = &args.o1(b, t, h, 0), *o2 = &args.o2(b, t, h, 0);
        T* o = &args.o(b, t, h, 0);
        for (int64_t d = 0; d < Dh; ++d)
          o[d] =
              static_cast<T>((weight1 * static_cast<A>(o1[d]) + weight2 * static_cast<A>(o2[d])) * inverse);
      }
}

HEADWAY_KERNEL(cpu, merge_attention<float>);
HEADWAY_KERNEL(cpu, merge_attention<double>);

}  // namespace
}  // namespace headway
