// Gates and balance loss of a mixture of heads (arXiv 2410.11842, equations 4 to 7) from router logits z per
// token: of Hs shared heads (zs), of E = H - Hs routed heads (zr), and two that mix both groups (zh, absent
// where Hs = 0).
//
//   ps = softmax(zs)   pr = softmax(zr)   m = softmax(zh)
//
// S is the top_k largest zr, ties to the smaller index, and r = softmax of zr over S alone. Other routed
// heads have the gate 0; without shared heads the factors m_1 and 2 m_1 are left out.
//
//   paper:   shared m_0 ps_i          routed, i in S: m_1 pr_i
//
//   renorm:  shared 2 m_0 Hs ps_i     routed, i in S: 2 m_1 top_k r_i
//
//   balance = c sum over routed i of P_i f_i
//
// A head's tokens are those whose gate is not zero, so that attention computes no others: gates that are lost
// in the underflow of a softmax have no gradient either.
//
// P_i is the mean over tokens of pr_i, f_i the share of tokens with i in S, a constant for gradients; c = 1
// (paper) or E (renorm).
//
// Backward, with dg the gradient of the gates and db that of the balance loss, n tokens:
//   softmax groups as usual; dzr_i += db c / n pr_i (f_i - sum_j pr_j f_j)
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

struct MohConfig {
  int64_t shared_heads = 0;
  int64_t top_k = 1;
  bool renormalises = true;

  /// Columns of the router's logits for so many heads.
  constexpr int64_t num_logits(int64_t heads) const { return heads + (shared_heads > 0 ? 2 : 0); }
};

template <class T>
struct MohGatesForward {
  static constexpr const char* name = "moh_gates_forward";
  MohConfig config;
  View<const T, 3> z;            // [B,T,N]
  View<Acc<T>, 3> gates;         // [B,H,T]
  View<int32_t, 3> row_index;    // [B,H,T]: the tokens of each head, ascending, and -1 after the last
  View<Acc<T>, 1> fractions;     // [E]: f
  View<Acc<T>, 1> balance_loss;  // [1]

  void check() const {
    HEADWAY_CHECK(z.is_contiguous() && gates.is_contiguous() && row_index.is_contiguous() &&
                      row_index.numel() == gates.numel() && z.size[2] == config.num_logits(gates.size[1]) &&
                      gates.size[0] == z.size[0] && gates.size[2] == z.size[1] &&
                      fractions.size[0] == gates.size[1] - config.shared_heads && balance_loss.size[0] == 1,
                  ShapeError, "moh_gates_forward: sizes do not fit");
  }
};

template <class T>
struct MohGatesBackward {
  static constexpr const char* name = "moh_gates_backward";
  MohConfig config;
  View<const T, 3> z;
  View<const Acc<T>, 1> fractions;
  View<const Acc<T>, 3> dgates;         // [B,H,T], optional
  View<const Acc<T>, 1> dbalance_loss;  // [1], optional
  View<T, 3> dz;

  void check() const {
    HEADWAY_CHECK(z.is_contiguous() && dz.is_contiguous() && dz.numel() == z.numel() &&
                      z.size[2] == config.num_logits(fractions.size[0] + config.shared_heads) &&
                      (!dgates || dgates.is_contiguous()),
                  ShapeError, "moh_gates_backward: sizes do not fit");
  }
};

}  // namespace headway
