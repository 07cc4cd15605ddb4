// Compressed convolutional attention (arXiv 2510.04476): from the projected queries and keys of the latent to
// those of attention, before rotary positions. With G = H/K query heads per key head, kv(h) = floor(h/G) and
// the heads u0 = [q0 | k0], all query heads before all key heads:
//
//   u1[t,c]   = conv_a_bias[c]   + sum_j conv_a[c,j] u0[t-(K0-1)+j, c]                   per channel
//   u2[t,h,o] = conv_b_bias[h,o] + sum_j sum_i conv_b[h,o,i,j] u1[t-(K1-1)+j, h, i]      within a head
//   q1[h] = u2[h] + (q0[h] + k0[kv(h)]) / 2
//   k1[g] = u2[H+g] + (mean of q0[h] over the group g + k0[g]) / 2                       with qk_mean only
//   q = sqrt(Dh) q1 / sqrt(|q1|^2 + eps)        k = beta_g sqrt(Dh) k1 / sqrt(|k1|^2 + eps)
//
// The last tap sees the token itself. u0 before token 0 is the history, or zero without one; u1 before token
// 0 is computed from that, so it is the bias and not zero. beta is exp(temperature) or the temperature
// itself.
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

enum class CcaTemperature : uint8_t { exponential, linear };

template <class T>
struct CcaPrologueInputs {
  View<const T, 4> query;             // [B,T,H,Dh]
  View<const T, 4> key;               // [B,T,K,Dh]
  View<const T, 4> query_history;     // [B,K0+K1-2,H,Dh], optional
  View<const T, 4> key_history;       // [B,K0+K1-2,K,Dh], optional
  View<const T, 2> conv_a;            // [(H+K)*Dh,K0]
  View<const Acc<T>, 1> conv_a_bias;  // [(H+K)*Dh]
  View<const T, 4> conv_b;            // [H+K,Dh out,Dh in,K1]
  View<const Acc<T>, 1> conv_b_bias;  // [(H+K)*Dh]
  View<const Acc<T>, 1> temperature;  // [K]
  CcaTemperature temperature_kind = CcaTemperature::exponential;
  bool qk_mean = true;
  double eps = 0;

  int64_t num_history_rows() const { return conv_a.size[1] + conv_b.size[3] - 2; }

  void check(const char* name) const {
    const int64_t H = query.size[2], K = key.size[2], Dh = query.size[3], channels = (H + K) * Dh;
    const auto follows = [](const View<const T, 4>& x, const View<const T, 4>& like, int64_t rows) {
      return x.is_contiguous() && x.size[0] == like.size[0] && x.size[1] == rows && x.size[3] == like.size[3];
    };
    HEADWAY_CHECK(query.is_contiguous() && K > 0 && H % K == 0 && follows(key, query, query.size[1]),
                  ShapeError, std::string(name) + ": queries and keys do not fit each other");
    HEADWAY_CHECK(conv_a.is_contiguous() && conv_a.size[0] == channels && conv_a.size[1] > 0 &&
                      conv_a_bias.size[0] == channels && conv_b.is_contiguous() && conv_b.size[0] == H + K &&
                      conv_b.size[1] == Dh && conv_b.size[2] == Dh && conv_b.size[3] > 0 &&
                      conv_b_bias.size[0] == channels && temperature.size[0] == K,
                  ShapeError, std::string(name) + ": parameters do not fit the heads");
    HEADWAY_CHECK(
        (!query_history ||
         (follows(query_history, query, num_history_rows()) && query_history.size[2] == H)) &&
            (!key_history || (follows(key_history, key, num_history_rows()) && key_history.size[2] == K)),
        ShapeError, std::string(name) + ": the history does not have K0 + K1 - 2 rows of these heads");
  }
};

template <class T>
struct CcaPrologueForward {
  static constexpr const char* name = "cca_prologue_forward";

  CcaPrologueInputs<T> in;
  View<T, 4> q;  // [B,T,H,Dh]
  View<T, 4> k;  // [B,T,K,Dh]

  void check() const {
    in.check(name);
    HEADWAY_CHECK(q.is_contiguous() && k.is_contiguous() && q.numel() == in.query.numel() &&
                      k.numel() == in.key.numel(),
                  ShapeError, "cca_prologue_forward: outputs do not fit the inputs");
  }
};

/// Everything between is computed again. The history is a constant.
template <class T>
struct CcaPrologueBackward {
  static constexpr const char* name = "cca_prologue_backward";

  CcaPrologueInputs<T> in;
  View<const T, 4> dq;      // [B,T,H,Dh]
  View<const T, 4> dk;      // [B,T,K,Dh]
  View<T, 4> dquery;        // [B,T,H,Dh]
  View<T, 4> dkey;          // [B,T,K,Dh]
  View<Acc<T>, 2> dconv_a;  // as the parameters
  View<Acc<T>, 1> dconv_a_bias;
  View<Acc<T>, 4> dconv_b;
  View<Acc<T>, 1> dconv_b_bias;
  View<Acc<T>, 1> dtemperature;
  bool accumulate_conv_a = false, accumulate_conv_a_bias = false;
  bool accumulate_conv_b = false, accumulate_conv_b_bias = false;
  bool accumulate_temperature = false;

  void check() const {
    in.check(name);
    HEADWAY_CHECK(
        dq.is_contiguous() && dk.is_contiguous() && dquery.is_contiguous() && dkey.is_contiguous() &&
            dq.numel() == in.query.numel() && dk.numel() == in.key.numel() &&
            dquery.numel() == in.query.numel() && dkey.numel() == in.key.numel() && dconv_a.is_contiguous() &&
            dconv_a.numel() == in.conv_a.numel() && dconv_a_bias.size[0] == in.conv_a_bias.size[0] &&
            dconv_b.is_contiguous() && dconv_b.numel() == in.conv_b.numel() &&
            dconv_b_bias.size[0] == in.conv_b_bias.size[0] && dtemperature.size[0] == in.temperature.size[0],
        ShapeError, "cca_prologue_backward: gradients do not fit the inputs");
  }
};

}  // namespace headway
