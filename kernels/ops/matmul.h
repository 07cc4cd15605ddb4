// C = scale A B (+ C or + bias per column). A [M,K], B [K,N], C [M,N].
//
// A and B are views with unit stride along one of their dimensions, so a transposed operand is a transposed
// view. Sums are kept in Acc<T>. A batch is so many products of equal sizes, each a number of elements after
// the one before it.
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

struct MatmulBatch {
  int64_t count = 1;
  int64_t a = 0, b = 0, c = 0, bias = 0;  // elements from one product's first to the next one's
};

template <class T, class C = T>
struct Matmul {
  static constexpr const char* name = "matmul";

  View<const T, 2> a, b;
  View<C, 2> c;
  View<const Acc<T>, 1> bias;   // optional, [N]
  View<const Acc<T>, 1> scale;  // optional, [1], in the memory of the device
  bool accumulate = false;      // add to what c holds
  MatmulBatch batch = {};       // the views are those of the first product

  void check() const {
    const auto size = [](const auto& view) {
      return "[" + std::to_string(view.size[0]) + ", " + std::to_string(view.size[1]) + "]";
    };
    HEADWAY_CHECK(a.size[0] == c.size[0] && a.size[1] == b.size[0] && b.size[1] == c.size[1], ShapeError,
                  "matmul: " + size(a) + " times " + size(b) + " does not give " + size(c));
    const auto is_dense = [](const auto& view) { return view.stride[0] == 1 || view.stride[1] == 1; };
    HEADWAY_CHECK(is_dense(a) && is_dense(b) && (c.stride[1] == 1 || c.size[1] == 1), ShapeError,
                  "matmul: an operand has no dimension of unit stride");
    HEADWAY_CHECK(!bias || bias.size[0] == c.size[1], ShapeError,
                  "matmul: the bias does not fit the columns");
    HEADWAY_CHECK(!bias || !accumulate, ShapeError,
                  "matmul: a bias cannot be added to a product that accumulates");
  }
};

/// A product and GELU (activation.h) in one pass over memory. Backends without a kernel do them one after the
/// other, and so do sizes that do not fit.
///
///   forward:  inner = A B + bias,  c = gelu(inner)
///   backward: c = (A B) gelu'(inner)
template <class T>
struct MatmulGelu {
  static constexpr const char* name = "matmul_gelu";
  enum class Direction : uint8_t { forward, backward };

  Matmul<T> product;
  View<T, 2> inner;  // [M,N], contiguous, as c is
  Direction direction = Direction::forward;

  /// Whether rows begin where wide accesses may.
  static bool fits(int64_t num_columns) { return num_columns % (16 / static_cast<int64_t>(sizeof(T))) == 0; }
  void check() const {
    product.check();
    HEADWAY_CHECK(
        inner.size[0] == product.c.size[0] && inner.size[1] == product.c.size[1] && inner.is_contiguous() &&
            product.c.is_contiguous() && fits(inner.size[1]) && !product.accumulate && !product.scale &&
            product.batch.count == 1 && (direction == Direction::forward || !product.bias),
        ShapeError, "matmul_gelu: inner and c must be of one shape and contiguous, and nothing is added");
  }
};

/// sum[n] (+)= sum over m of x[m,n]: the gradient of a bias.
template <class T>
struct ColumnSum {
  static constexpr const char* name = "column_sum";

  View<const T, 2> x;   // [M,N], contiguous
  View<Acc<T>, 1> sum;  // [N]
  bool accumulate = false;

  void check() const {
    HEADWAY_CHECK(x.size[1] == sum.size[0] && x.is_contiguous(), ShapeError, "column_sum: sizes do not fit");
  }
};

}  // namespace headway
