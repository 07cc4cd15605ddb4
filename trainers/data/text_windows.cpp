#include "trainers/data/text_windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

namespace headway {
namespace {

class TextWindows final : public ExampleSource {
 public:
  TextWindows(std::unique_ptr<TokenCorpus> corpus, const DataRecipe& recipe, int64_t seed)
      : corpus_(std::move(corpus)),
        seq_len_(recipe.seq_len),
        are_moving_(recipe.windows == "moving"),
        seed_(static_cast<uint64_t>(seed)) {
    HEADWAY_CHECK(
        recipe.val_fraction == 1 || corpus_->num_tokens(Split::train) > seq_len_, DataError,
        fmt::format("the training data has {} tokens: fewer than one sequence of data.seq_len + 1 = {}",
                    corpus_->num_tokens(Split::train), seq_len_ + 1));
  }

  int64_t num_examples(Split split) const override {
    const int64_t questions = num_questions(split);
    const bool asks_for_rest = split == Split::validation || are_moving_;
    return std::max<int64_t>(0, (questions + (asks_for_rest ? seq_len_ - 1 : 0)) / seq_len_);
  }
  void read(const ExamplePlace& place, std::span<int32_t> tokens, std::span<int32_t> targets) const override {
    const bool wraps = place.split == Split::train && are_moving_;
    const int64_t num_tokens = corpus_->num_tokens(place.split);
    const int64_t begin =
        wraps ? (offset(place.epoch) + place.index * seq_len_) % num_tokens : place.index * seq_len_;
    std::vector<int32_t> window(static_cast<size_t>(seq_len_ + 1), -1);
    const std::span<int32_t> all(window);
    const auto length = static_cast<size_t>(std::min(seq_len_ + 1, num_tokens - begin));
    corpus_->read(place.split, begin, all.first(length));
    if (wraps) corpus_->read(place.split, 0, all.subspan(length));
    std::transform(window.begin(), window.end() - 1, tokens.begin(),
                   [](int32_t id) { return std::max(id, 0); });
    std::ranges::fill(targets, -1);
    const int64_t asked = std::min(seq_len_, num_questions(place.split) - place.index * seq_len_);
    std::copy_n(window.begin() + 1, asked, targets.begin());
  }
  std::string fingerprint() const override { return corpus_->fingerprint(); }
  DataDigests digests() const override { return corpus_->digests(); }
  double bytes_per_token() const override { return corpus_->bytes_per_token(); }
  int64_t largest_shard_id() const override { return corpus_->largest_shard_id(); }
  std::string description() const override { return corpus_->description(); }

 private:
  /// Tokens that an epoch asks for. Windows that wrap ask for the first one too, after the last.
  int64_t num_questions(Split split) const {
    return corpus_->num_tokens(split) - (split == Split::train && are_moving_ ? 0 : 1);
  }
  /// Where an epoch's first window begins.
  int64_t offset(int64_t epoch) const {
    const PhiloxBlock block =
        random_block({seed_, static_cast<uint32_t>(epoch), stream_of("window offset")}, 0);
    const uint64_t bits = uint64_t{block.word[1]} << 32 | block.word[0];
    return static_cast<int64_t>(bits % static_cast<uint64_t>(corpus_->num_tokens(Split::train)));
  }

  std::unique_ptr<TokenCorpus> corpus_;
  int64_t seq_len_;
  bool are_moving_;
  uint64_t seed_;
};

}  // namespace

std::unique_ptr<ExampleSource> open_text_windows(std::unique_ptr<TokenCorpus> corpus,
                                                 const DataRecipe& recipe, int64_t seed) {
  return std::make_unique<TextWindows>(std::move(corpus), recipe, seed);
}

}  // namespace headway
