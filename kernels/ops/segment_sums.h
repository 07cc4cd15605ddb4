// The states of a linear attention whose sequences are cut into segments (core/token_positions.h): from what
// each segment alone adds, x, follows what stands before each segment. With f_h = exp(-slope_h
// segment_length):
//
//   before:  y_s = sum over j < s of f^(s-1-j) x_j
//   after:   y_s = sum over j > s of f^(j-s-1) x_j         the gradient of the other, and the other way round
//
// The sums start at the farthest segment, whatever rank holds it, so that bits do not depend on time.
#pragma once

#include <string>

#include "core/token_positions.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

enum class SegmentSide : uint8_t { before, after };

/// T: float or double.
template <class T>
struct SegmentSums {
  static constexpr const char* name = "segment_sums";

  View<const T, 4> x;  // [N,2B,H,E]: of the segments that each rank holds, in the order of its own tensors
  View<const T, 1> slope;  // [H], optional: no decay
  int64_t segment_length = 0;
  int64_t rank = 0;
  SegmentSide side = SegmentSide::before;
  View<T, 3> y;  // [2B,H,E]: of this rank's segments

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && x.size[1] == y.size[0] &&
                      x.size[2] == y.size[1] && x.size[3] == y.size[2] && y.size[0] % 2 == 0 && rank >= 0 &&
                      rank < x.size[0] && (!slope || slope.size[0] == y.size[1]),
                  ShapeError, std::string(name) + ": sizes do not fit");
  }
  /// How many segments the sums of this one add up.
  HEADWAY_HD int64_t count(int64_t segment) const {
    return side == SegmentSide::before ? segment : 2 * x.size[0] - 1 - segment;
  }
  /// The i-th of them, from the farthest on: where the numbers of sequence b and head h begin.
  HEADWAY_HD const T* term(int64_t i, int64_t b, int64_t h) const {
    const Zigzag zigzag{x.size[0]};
    const int64_t j = side == SegmentSide::before ? i : zigzag.num_segments() - 1 - i;
    const int64_t row = zigzag.rank_of(j) * x.size[1] + 2 * b + zigzag.half_of(j);
    return x.data + (row * x.size[2] + h) * x.size[3];
  }
};

}  // namespace headway
