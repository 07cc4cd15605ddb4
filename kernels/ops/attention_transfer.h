// How far a linear attention's weights are from softmax attention's (Hedgehog, arXiv 2402.04347, section 4.2;
// LoLCATs, arXiv 2410.10254, equation 13): the mean over all rows of the Kullback-Leibler divergence
//
//   a_ij = softmax over j <= i of scale q_i.k_j            w_ij = <fq_i, fk_j>, n_i = sum over j <= i of w_ij
//   l_i  = sum over j <= i of a_ij (log a_ij - log max(w_ij / n_i, floor))       loss = mean of l_i
//
// It differs from the papers' cross entropy by the entropy of a, which is constant here: the teacher gets no
// gradient. With R rows, c_i the sum of a_ij over the weights above the floor, and [.] 1 where true:
//
//   dloss/dw_ij = (c_i / n_i - [w_ij / n_i >= floor] a_ij / w_ij) / R
//   dfq_i = sum over j of dw_ij fk_j       dfk_j = sum over i of dw_ij fq_i
//
// The matrices are never whole in memory.
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

/// The student's smallest weight that is told from zero.
inline constexpr double kTransferFloor = 1e-12;

template <class T>
struct AttentionTransferInputs {
  View<const T, 4> q, k;    // [B,T,H,Dh], of the teacher
  View<const T, 4> fq, fk;  // [B,T,H,F], non-negative features of the student
  double scale = 1;

  void check(const char* name) const {
    bool fits = q.is_contiguous() && k.is_contiguous() && fq.is_contiguous() && fk.is_contiguous();
    for (int d = 0; d < 4; ++d) fits = fits && q.size[d] == k.size[d] && fq.size[d] == fk.size[d];
    for (int d = 0; d < 3; ++d) fits = fits && q.size[d] == fq.size[d];
    HEADWAY_CHECK(fits, ShapeError, std::string(name) + ": sizes do not fit");
  }
};

template <class T>
struct AttentionTransferForward {
  static constexpr const char* name = "attention_transfer_forward";
  AttentionTransferInputs<T> in;
  View<Acc<T>, 3> divergence;  // [B,H,T]: l
  View<Acc<T>, 1> loss;        // [1]

  void check() const {
    in.check(name);
    HEADWAY_CHECK(divergence.is_contiguous() && divergence.size[0] == in.q.size[0] &&
                      divergence.size[1] == in.q.size[2] && divergence.size[2] == in.q.size[1] &&
                      loss.size[0] == 1,
                  ShapeError, "attention_transfer_forward: outputs do not fit");
  }
};

template <class T>
struct AttentionTransferBackward {
  static constexpr const char* name = "attention_transfer_backward";
  AttentionTransferInputs<T> in;
  View<const Acc<T>, 1> dloss;  // [1]
  View<T, 4> dfq, dfk;

  void check() const {
    in.check(name);
    bool fits = dfq.is_contiguous() && dfk.is_contiguous() && dloss.size[0] == 1;
    for (int d = 0; d < 4; ++d) fits = fits && dfq.size[d] == in.fq.size[d] && dfk.size[d] == in.fk.size[d];
    HEADWAY_CHECK(fits, ShapeError, "attention_transfer_backward: gradients do not fit");
  }
};

}  // namespace headway
