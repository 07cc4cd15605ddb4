#include "trainers/rank_groups.h"

#include <fmt/format.h>

#include "core/error.h"

namespace headway {

RankGroups::RankGroups(const Recipe& recipe, Communicator& all)
    : num_groups_(all.size() / recipe.train.context_parallel),
      group_(all.rank() / recipe.train.context_parallel) {
  if (recipe.train.context_parallel == 1) return;
  members_ = all.split(static_cast<int>(group_));
  split_.emplace(*members_);
}

void check_context_parallel(const Recipe& recipe, const Model& model) {
  const int64_t ranks = recipe.train.context_parallel;
  if (ranks == 1) return;
  const int64_t segment_length = recipe.data.seq_len / (2 * ranks);
  for (int64_t i = 0; i < recipe.model.num_layers; ++i) {
    const std::string objection =
        model.blocks()[static_cast<size_t>(i)]->attention().objection_to_split(segment_length);
    HEADWAY_CHECK(
        objection.empty(), ConfigError,
        fmt::format("train.context_parallel = {} cuts sequences into segments of {} tokens: layer {} has {} "
                    "attention, {}",
                    ranks, segment_length, i, recipe.model.attention.of_layer(i).kind, objection));
  }
}

}  // namespace headway
