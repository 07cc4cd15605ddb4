// What each rank of a run works on: groups of train.context_parallel neighbouring ranks share sequences, and
// different groups read different ones. Gradients are summed over all ranks.
//
//   4 ranks, context_parallel = 2:   ranks 0 and 1 share the first sequences of a step, 2 and 3 the others
#pragma once

#include <memory>
#include <optional>

#include "core/comm/communicator.h"
#include "core/comm/sequence_split.h"
#include "layers/model.h"
#include "trainers/recipe.h"

namespace headway {

class RankGroups {
 public:
  /// Collective. all: the ranks of the run, which must outlive this.
  RankGroups(const Recipe&, Communicator& all);

  int64_t num_groups() const { return num_groups_; }
  /// Of this rank.
  int64_t group() const { return group_; }
  /// Null where every rank has whole sequences.
  const SequenceSplit* split() const { return split_ ? &*split_ : nullptr; }

 private:
  int64_t num_groups_, group_;
  std::unique_ptr<Communicator> members_;
  std::optional<SequenceSplit> split_;
};

/// ConfigError where train.context_parallel splits sequences that a layer of the model needs whole.
void check_context_parallel(const Recipe&, const Model&);

}  // namespace headway
