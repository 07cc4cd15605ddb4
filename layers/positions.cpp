#include "layers/positions.h"

#include <bit>
#include <cmath>
#include <vector>

namespace headway {
namespace {

template <class T>
Tensor make_table(double theta, int64_t width, int64_t positions, Stream& stream) {
  std::vector<T> values;
  values.reserve(static_cast<size_t>(positions * width));
  for (int64_t t = 0; t < positions; ++t) {
    for (int64_t i = 0; i < width / 2; ++i) {
      const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(width);
      const double angle = static_cast<double>(t) * std::pow(theta, exponent);
      values.push_back(static_cast<T>(std::cos(angle)));
      values.push_back(static_cast<T>(std::sin(angle)));
    }
  }
  return Tensor::from<T>(values, {positions, width / 2, 2}, stream);
}

}  // namespace

const Tensor& RopeTables::get(double theta, int64_t width, int64_t positions, DType dtype, Stream& stream) {
  Tensor& table = tables_[{theta, width}];
  if (!table || table.size(0) < positions) {
    // Powers of two, so that generation token by token does not build a table per token.
    const auto rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(positions)));
    dispatch<double, float>(accumulator_of(dtype), "rope table",
                            [&]<class T>() { table = make_table<T>(theta, width, rows, stream); });
  }
  return table;
}

}  // namespace headway
