// AdamW (Loshchilov and Hutter, arXiv 1711.05101): decoupled weight decay, on matrices only.
//
//   m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
//   p = p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)
//
// with g the gradient times the clipping factor. State and update are fp32 (fp64 for fp64 models).
#pragma once

#include <vector>

#include "core/io/archive.h"
#include "layers/module.h"

namespace headway {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
};

class AdamW final : public Stateful {
 public:
  /// The model must be materialised and must outlive the optimiser. Moments start at zero.
  AdamW(Module& model, const AdamWConfig&, Stream&);

  /// Update number `step`, from 1. Gradients are multiplied by grad_scale first.
  void step(int64_t step, double learning_rate, double grad_scale, Stream&);

  void save(ArchiveWriter&, std::string_view prefix) const override;
  void load(ArchiveReader&, std::string_view prefix, Stream&) override;

 private:
  struct Slot {
    std::string path;
    Parameter* parameter;
    Tensor m, v;
  };
  AdamWConfig config_;
  std::vector<Slot> slots_;
};

/// Square root of the sum of all squares, not finite where any element is not.
double global_norm(const std::vector<Tensor>&, Stream&);

}  // namespace headway
