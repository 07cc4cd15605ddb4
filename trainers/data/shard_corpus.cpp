// Token shards as a corpus: their ids one after the other in the order of the paths. The end of the last ones
// is the validation split.
#include "trainers/data/shard_corpus.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/io/digest.h"
#include "core/io/token_shards.h"
#include "core/text/glob.h"
#include "trainers/progress.h"

namespace headway {
namespace {

class ShardCorpus final : public TokenCorpus {
 public:
  ShardCorpus(const DataRecipe& recipe, int64_t vocab_size) {
    std::string digests;
    for (const auto& path : find_files(recipe.tokens, "data.tokens")) {
      TokenShard& shard = shards_.emplace_back(path);
      digests += shard.scan(vocab_size);
      ends_.push_back((ends_.empty() ? 0 : ends_.back()) + shard.num_tokens());
    }
    fingerprint_ = xxh3_64(digests.data(), digests.size());
    const int64_t total = ends_.back();
    num_train_ = total - static_cast<int64_t>(recipe.val_fraction * static_cast<double>(total));
  }

  int64_t num_tokens(Split split) const override {
    return split == Split::train ? num_train_ : ends_.back() - num_train_;
  }
  void read(Split split, int64_t offset, std::span<int32_t> ids) const override {
    int64_t at = split == Split::train ? offset : num_train_ + offset;
    auto shard = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), at) - ends_.begin());
    while (!ids.empty()) {
      const int64_t begin = shard == 0 ? 0 : ends_[shard - 1];
      const auto count =
          static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(ids.size()), ends_[shard] - at));
      shards_[shard].read(at - begin, ids.first(count));
      ids = ids.subspan(count);
      at += static_cast<int64_t>(count);
      ++shard;
    }
  }
  std::string fingerprint() const override { return fingerprint_; }
  DataDigests digests() const override {
    const auto digest_of = [this](const char* split) {
      const std::string definition = fmt::format("{} {} {}", fingerprint_, split, num_train_);
      return xxh3_64(definition.data(), definition.size());
    };
    return {.all = fingerprint_, .train = digest_of("train"), .held_out = digest_of("validation")};
  }
  double bytes_per_token() const override { return 0; }
  std::string description() const override {
    return fmt::format("{} token shards, {} training and {} validation tokens", shards_.size(),
                       format_count(static_cast<double>(num_tokens(Split::train))),
                       format_count(static_cast<double>(num_tokens(Split::validation))));
  }

 private:
  std::vector<TokenShard> shards_;
  std::vector<int64_t> ends_;  // tokens up to and including each shard
  int64_t num_train_ = 0;
  std::string fingerprint_;
};

}  // namespace

std::unique_ptr<TokenCorpus> open_shard_corpus(const DataRecipe& recipe, int64_t vocab_size) {
  return std::make_unique<ShardCorpus>(recipe, vocab_size);
}

}  // namespace headway
