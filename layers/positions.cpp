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

Tensor Positions::rope(double theta, int64_t width, DType dtype, Stream& stream) const {
  const Tensor& table = tables->get(theta, width, of_tokens().of(count - 1) + 1, dtype, stream);
  if (skipped == 0) return table.slice(0, offset, offset + count);
  const Tensor rows = Tensor::empty({count, width / 2, 2}, table.dtype(), table.device());
  const int64_t second = of_tokens().of(before_gap);
  rows.slice(0, 0, before_gap).copy_from(table.slice(0, offset, offset + before_gap), stream);
  rows.slice(0, before_gap, count).copy_from(table.slice(0, second, second + count - before_gap), stream);
  return rows;
}

}  // namespace headway
