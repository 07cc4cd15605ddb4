// Causal linear attention (arXiv 2006.16236) with a decay per head, from rows of features to rows of values.
// Per head, with the slope s >= 0 and Z the same recurrence over the normaliser's keys:
//
//   S_t = exp(-s) S_{t-1} + k_t v_t^T          n_t = S_t^T q_t
//   Z_t = exp(-s) Z_{t-1} + nk_t               d_t = <Z_t, nq_t> + eps
//   o_t = n_t / d_t  with a normaliser, n_t without
//
// nq and nk are q and k themselves unless given apart (rotated features in the numerator alone). No scale.
// Decay and eps may also be given per token, log_decay_t <= 0 in place of -s: exp(-s (i - j)) below then
// stands for exp(log_decay_{j+1} + ... + log_decay_i). They are constants for the gradient. The state before
// the first token and after the last is [F,V], or with a normaliser [F,V+1], whose last column is Z; absent
// before the first token it is zero.
//
// Backward, with dn_t = do_t / d_t, dd_t = -<do_t, o_t> / d_t, w_ij = exp(-s (i - j)) and R_out the gradient
// of the last state:
//   dq_i  = sum_{j<=i} w_ij <dn_i,v_j> k_j + exp(-s (i+1)) S_in dn_i
//   dk_j  = sum_{i>=j} w_ij <dn_i,v_j> q_i + exp(-s (T-1-j)) R_out v_j
//   dv_j  = sum_{i>=j} w_ij <q_i,k_j> dn_i + exp(-s (T-1-j)) R_out^T k_j
//   dnq_i = dd_i Z_i
//   dnk_j = sum_{i>=j} w_ij dd_i nq_i + exp(-s (T-1-j)) dZ_out
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct LinearAttentionInputs {
  View<const T, 4> q, k;            // [B,T,H,F]
  View<const T, 4> v;               // [B,T,H,V]
  View<const T, 4> norm_q, norm_k;  // [B,T,H,F], optional: both or none, with a normaliser only
  View<const Acc<T>, 4> state;      // [B,H,F,V] or [B,H,F,V+1], optional
  View<const Acc<T>, 1> slope;      // [H], optional: no decay
  View<const Acc<T>, 3> log_decay;  // [B,T,H], optional, in place of slope
  View<const Acc<T>, 3> token_eps;  // [B,T,H], optional, in place of eps, with a normaliser only
  bool normalise = false;
  double eps = 0;

  int64_t state_width() const { return v.size[3] + (normalise ? 1 : 0); }

  void check(const char* name) const {
    const auto rows_like = [](const View<const T, 4>& x, const View<const T, 4>& like) {
      return x.is_contiguous() && x.size[0] == like.size[0] && x.size[1] == like.size[1] &&
             x.size[2] == like.size[2];
    };
    HEADWAY_CHECK(
        rows_like(q, q) && rows_like(k, q) && k.size[3] == q.size[3] && rows_like(v, q) && v.size[3] > 0,
        ShapeError, std::string(name) + ": queries, keys and values do not fit each other");
    HEADWAY_CHECK(
        !norm_q == !norm_k && (!norm_q || (normalise && rows_like(norm_q, q) && rows_like(norm_k, q) &&
                                           norm_q.size[3] == q.size[3] && norm_k.size[3] == q.size[3])),
        ShapeError, std::string(name) + ": the normaliser's features do not fit");
    HEADWAY_CHECK(
        (!state || (state.is_contiguous() && fits_state(state))) && (!slope || slope.size[0] == q.size[2]),
        ShapeError, std::string(name) + ": the state or the slopes do not fit the heads");
    const auto per_token = [this](const View<const Acc<T>, 3>& x) {
      return x.is_contiguous() && x.size[0] == q.size[0] && x.size[1] == q.size[1] && x.size[2] == q.size[2];
    };
    HEADWAY_CHECK((!log_decay || (!slope && per_token(log_decay))) &&
                      (!token_eps || (normalise && per_token(token_eps))),
                  ShapeError, std::string(name) + ": decay or eps do not fit the tokens");
  }
  template <class S>
  bool fits_state(const View<S, 4>& x) const {
    return x.size[0] == q.size[0] && x.size[1] == q.size[2] && x.size[2] == q.size[3] &&
           x.size[3] == state_width();
  }
};

template <class T>
struct LinearAttentionForward {
  static constexpr const char* name = "linear_attention_forward";

  LinearAttentionInputs<T> in;
  View<T, 4> o;                 // [B,T,H,V]
  View<Acc<T>, 3> denominator;  // [B,T,H]: d, with a normaliser only
  View<Acc<T>, 4> state;        // after the last token

  void check() const {
    in.check(name);
    HEADWAY_CHECK(o.is_contiguous() && o.numel() == in.v.numel() && state.is_contiguous() &&
                      in.fits_state(state) &&
                      (!in.normalise || (denominator.is_contiguous() &&
                                         denominator.numel() == in.q.size[0] * in.q.size[1] * in.q.size[2])),
                  ShapeError, "linear_attention_forward: outputs do not fit the inputs");
  }
};

template <class T>
struct LinearAttentionBackward {
  static constexpr const char* name = "linear_attention_backward";

  LinearAttentionInputs<T> in;
  View<const T, 4> o;
  View<const Acc<T>, 3> denominator;
  View<const T, 4> dout;         // [B,T,H,V]
  View<const Acc<T>, 4> dstate;  // of the state after the last token, optional
  View<T, 4> dq, dk;             // [B,T,H,F]
  View<T, 4> dv;                 // [B,T,H,V]
  View<T, 4> dnorm_q, dnorm_k;   // [B,T,H,F], with norm_q and norm_k only
  View<Acc<T>, 4> dstate_in;     // optional

  void check() const {
    in.check(name);
    const auto fits = [](const auto& x, const auto& like) {
      return x.is_contiguous() && x.numel() == like.numel();
    };
    HEADWAY_CHECK(fits(o, in.v) && fits(dout, in.v) && fits(dq, in.q) && fits(dk, in.k) && fits(dv, in.v) &&
                      (!in.norm_q || (fits(dnorm_q, in.q) && fits(dnorm_k, in.q))) &&
                      (!in.normalise || denominator.is_contiguous()) &&
                      (!dstate || (dstate.is_contiguous() && in.fits_state(dstate))) &&
                      (!dstate_in || (dstate_in.is_contiguous() && in.fits_state(dstate_in))),
                  ShapeError, "linear_attention_backward: gradients do not fit the inputs");
  }
};

}  // namespace headway
