// Where the tokens of a batch stand, and the rotation tables that depend on it.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "core/tensor.h"
#include "core/token_positions.h"

namespace headway {

/// Tables of cosines and sines, [positions, width/2, 2] fp32 (fp64 for fp64 models), computed once in double
/// and shared by all layers. Angle of pair i at position t: t * theta^(-2i/width).
class RopeTables {
 public:
  /// Covers at least `positions` rows; grows when asked for more.
  const Tensor& get(double theta, int64_t width, int64_t positions, DType dtype, Stream&);

 private:
  std::map<std::pair<double, int64_t>, Tensor> tables_;
};

struct Positions {
  int64_t offset = 0;  // position of the first token
  int64_t count = 0;   // tokens
  RopeTables* tables = nullptr;
  int64_t before_gap = 0, skipped = 0;  // as in TokenPositions

  TokenPositions of_tokens() const { return {offset, before_gap, skipped}; }
  /// The rows of the table at the tokens' positions, [count, width/2, 2].
  Tensor rope(double theta, int64_t width, DType, Stream&) const;
};

}  // namespace headway
