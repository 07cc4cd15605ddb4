// AdamW (Loshchilov and Hutter, arXiv 1711.05101): decoupled weight decay, on matrices only.
//
//   m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
//   p = p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)
//
// with g the gradient times the clipping factor. State and update are fp32 (fp64 for fp64 models).
//
// Sharded (ZeRO stage 1, arXiv 1910.02054): a rank keeps the moments of its parts of a FlatLayout and updates
// the values there; then all ranks gather all values. The numbers are those of the unsharded update.
#pragma once

#include <optional>
#include <vector>

#include "core/comm/communicator.h"
#include "core/io/archive.h"
#include "layers/module.h"
#include "trainers/flat_layout.h"

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
  /// Sharded over the ranks. The layout is that of the parameters that are not frozen, and their values move
  /// into one flat tensor of it. Collective; layout and communicator must outlive the optimiser.
  AdamW(Module& model, const AdamWConfig&, const FlatLayout&, Communicator&, Stream&);

  bool is_sharded() const { return shards_.has_value(); }

  /// Update number `step`, from 1. Gradients are multiplied by grad_scale (1) f64 first; where it is negative
  /// nothing changes. Collective where sharded.
  void step(int64_t step, double learning_rate, const Tensor& grad_scale, Stream&);

  /// Where sharded, saving and loading happen between these two: the first collects the moments of all ranks,
  /// the second keeps the rank's own of what is there then. Both do nothing otherwise. Collective.
  void gather_moments(Stream&);
  void keep_own_moments(Stream&);

  void save(ArchiveWriter&, std::string_view prefix) const override;
  void load(ArchiveReader&, std::string_view prefix, Stream&) override;

 private:
  /// A stretch of a parameter that this rank updates.
  struct Part {
    Range range;
    Tensor m, v;
  };
  struct Slot {
    std::string path;
    Parameter* parameter;
    std::vector<Part> parts;
  };
  struct Shards {
    const FlatLayout* layout;
    Communicator* comm;
    Tensor values;  // flat
    Tensor m, v;    // flat, between gather_moments() and keep_own_moments()
  };

  void add_slots(Module&, const FlatLayout*, int rank, Stream&);
  Tensor gathered(Tensor Part::*moment, Stream&) const;
  /// The moments of a slot in the parameter's shape.
  std::pair<Tensor, Tensor> moments(size_t slot) const;

  Module& model_;
  AdamWConfig config_;
  std::vector<Slot> slots_;
  std::optional<Shards> shards_;
};

/// sum += the sum of all squares; sum is (1) f64. Not finite where any element is not.
void add_squares(const std::vector<Tensor>&, const Tensor& sum, Stream&);
/// Square root of the sum of all squares, not finite where any element is not. Waits for the stream.
double global_norm(const std::vector<Tensor>&, Stream&);

}  // namespace headway
