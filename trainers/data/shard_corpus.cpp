// Token shards as a corpus: their ids one after the other in the order of the paths. Their end is held out,
// or blocks where data.split says so: shards do not keep where documents begin.
#include "trainers/data/shard_corpus.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/io/digest.h"
#include "core/io/token_shards.h"
#include "core/text/glob.h"

namespace headway {
namespace {

class ShardCorpus final : public SplitCorpus {
 public:
  ShardCorpus(const DataRecipe& recipe, int64_t vocab_size) {
    std::string digests;
    for (const auto& path : find_files(recipe.tokens, "data.tokens")) {
      TokenShard& shard = shards_.emplace_back(path);
      digests += shard.scan(vocab_size);
      ends_.push_back((ends_.empty() ? 0 : ends_.back()) + shard.num_tokens());
      largest_id_ = std::max(largest_id_, shard.largest_id());
    }
    fingerprint_ = xxh3_64(digests.data(), digests.size());
    split(hold_out(recipe, ends_.back()), ends_.back());
  }

  std::string fingerprint() const override { return fingerprint_; }
  /// The splits are named by what they are taken from and where: they may be too large to read them all
  /// again.
  DataDigests digests() const override {
    const auto digest_of = [this](const TokenRanges& part) {
      std::string definition = fingerprint_;
      for (const auto& [begin, end] : part.ranges()) definition += fmt::format(" {}-{}", begin, end);
      return xxh3_64(definition.data(), definition.size());
    };
    return {.all = fingerprint_,
            .train = digest_of(tokens(Split::train)),
            .held_out = digest_of(tokens(Split::validation))};
  }
  double bytes_per_token() const override { return 0; }
  int64_t largest_shard_id() const override { return largest_id_; }
  std::string description() const override {
    return describe_split(fmt::format("{} token shards", shards_.size()));
  }

 private:
  void read_all(int64_t at, std::span<int32_t> ids) const override {
    auto shard = static_cast<size_t>(std::ranges::upper_bound(ends_, at) - ends_.begin());
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

  std::vector<TokenShard> shards_;
  std::vector<int64_t> ends_;  // tokens up to and including each shard
  int64_t largest_id_ = -1;
  std::string fingerprint_;
};

}  // namespace

std::unique_ptr<TokenCorpus> open_shard_corpus(const DataRecipe& recipe, int64_t vocab_size) {
  return std::make_unique<ShardCorpus>(recipe, vocab_size);
}

}  // namespace headway
