// A head's learned matrix and Hedgehog's map of its rows in one pass over memory:
//
//   u = x W_h^T     y = map(u)                     kernels/ops/hedgehog_map.h
//
// Backward computes u and the features again: du as there, dx = du W_h, dW_h (+)= sum over rows of du^T x.
// Backends without a kernel do one after the other, and so do sizes and maps that it does not take.
#pragma once

#include "kernels/ops/hedgehog_map.h"

namespace headway {

/// Whether the kernels take heads of Dh channels whose matrices have Df rows.
inline bool takes_hedgehog_feature_map(HedgehogFeatures features, int64_t Dh, int64_t Df) {
  constexpr int64_t kWidest = 64, kPack = 8;
  return (features == HedgehogFeatures::softmax || features == HedgehogFeatures::joint) && Dh <= kWidest &&
         Df <= kWidest && Dh % kPack == 0 && Df % kPack == 0;
}

template <class T>
struct HedgehogFeatureMapForward {
  static constexpr const char* name = "hedgehog_feature_map_forward";

  HedgehogFeatures features = HedgehogFeatures::softmax;
  View<const T, 3> x;       // [N,H,Dh]
  View<const T, 3> weight;  // [H,Df,Dh]
  View<T, 3> y;             // [N,H,2*Df]

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && weight.is_contiguous() && y.is_contiguous() &&
                      takes_hedgehog_feature_map(features, x.size[2], weight.size[1]) &&
                      weight.size[0] == x.size[1] && weight.size[2] == x.size[2] && y.size[0] == x.size[0] &&
                      y.size[1] == x.size[1] && y.size[2] == 2 * weight.size[1],
                  ShapeError, "hedgehog_feature_map_forward: sizes do not fit");
  }
};

template <class T>
struct HedgehogFeatureMapBackward {
  static constexpr const char* name = "hedgehog_feature_map_backward";

  HedgehogFeatures features = HedgehogFeatures::softmax;
  View<const T, 3> x;       // [N,H,Dh]
  View<const T, 3> weight;  // [H,Df,Dh]
  View<const T, 3> dy;      // [N,H,2*Df]
  View<T, 3> dx;            // [N,H,Dh]
  View<Acc<T>, 3> dweight;  // [H,Df,Dh]
  bool accumulate_weight = false;

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && weight.is_contiguous() && dy.is_contiguous() && dx.is_contiguous() &&
                      dweight.is_contiguous() &&
                      takes_hedgehog_feature_map(features, x.size[2], weight.size[1]) &&
                      weight.size[0] == x.size[1] && weight.size[2] == x.size[2] &&
                      dy.numel() == 2 * x.size[0] * x.size[1] * weight.size[1] && dx.numel() == x.numel() &&
                      dweight.numel() == weight.numel(),
                  ShapeError, "hedgehog_feature_map_backward: sizes do not fit");
  }
};

}  // namespace headway
