// Joins the results of two attentions of the same queries over disjoint sets of keys into that over both:
//   L = log(exp L1 + exp L2)      O = O1 exp(L1 - L) + O2 exp(L2 - L)
// so split keys, a window plus something else, or a prefix are compositions instead of kernels. O1 and O2
// must be plain softmax outputs (no row scale or bias, a sink in at most one). A row without a key in either
// part has O = 0, L = -inf.
#pragma once

#include <string>

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/attention/weights.h"
#include "kernels/op.h"

namespace headway {

/// o1 o2 o [B,T,H,Dh] contiguous, log_sum_exp1 log_sum_exp2 log_sum_exp [B,H,T] contiguous. The results may
/// be the memory of either part.
template <class T>
struct MergeAttention {
  static constexpr const char* name = "merge_attention";

  View<const T, 4> o1, o2;
  View<const Acc<T>, 3> log_sum_exp1, log_sum_exp2;
  View<T, 4> o;
  View<Acc<T>, 3> log_sum_exp;

  void check() const {
    const auto same = [](const auto& a, const auto& b) {
      bool equal = a.is_contiguous() && b.is_contiguous();
      for (size_t i = 0; i < std::size(a.size); ++i) equal = equal && a.size[i] == b.size[i];
      return equal;
    };
    HEADWAY_CHECK(same(o1, o2) && same(o1, o), ShapeError,
                  std::string(name) + ": o1, o2 and o must be contiguous and of one shape");
    HEADWAY_CHECK(same(log_sum_exp1, log_sum_exp2) && same(log_sum_exp1, log_sum_exp), ShapeError,
                  std::string(name) + ": the three log_sum_exp must be contiguous and of one shape");
    HEADWAY_CHECK(log_sum_exp.size[0] == o.size[0] && log_sum_exp.size[1] == o.size[2] &&
                      log_sum_exp.size[2] == o.size[1],
                  ShapeError, std::string(name) + ": log_sum_exp must be [B,H,T] where o is [B,T,H,Dh]");
  }
};

/// The door to it for results of variant V: only those of a softmax can be merged.
template <class V, class T>
void merge_attention(const MergeAttention<T>& args, Stream& stream) {
  static_assert(HasLogSumExp<V>,
                "a variant whose Weight is not OnlineSoftmax has no log-sum-exp to merge by");
  launch(args, stream);
}

}  // namespace headway
