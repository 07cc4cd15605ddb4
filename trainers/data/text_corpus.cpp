// Documents as a corpus. A document is held out when a hash of its content and data.split_seed falls below
// val_fraction, so the split does not depend on the order or number of the other files. Where that leaves one
// of the splits without a document, or data.split says so, a part of the text is held out instead
// (trainers/data/token_ranges.h).
#include "trainers/data/text_corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "core/io/digest.h"
#include "core/rng.h"
#include "core/stop_signal.h"

namespace headway {
namespace {

bool is_held_out(const std::string& digest, int64_t seed, double fraction) {
  const RandomKey key{static_cast<uint64_t>(seed), 0, stream_of(digest.c_str()), 0};
  return static_cast<double>(uniform(key, 0)) < fraction;
}

class TextCorpus final : public SplitCorpus {
 public:
  TextCorpus(const DataRecipe& recipe, const Tokenizer& tokenizer,
             std::shared_ptr<const TextDocuments> documents)
      : documents_(std::move(documents)) {
    hold_out_some(recipe);
    std::string document_digests;
    for (size_t i = 0; i < documents_->num_documents(); ++i) document_digests += documents_->digest(i);
    digests_.all = xxh3_64(document_digests.data(), document_digests.size());
    digests_.train = digest_of(Split::train, tokenizer, [](std::span<const int32_t>) {});
    int64_t validation_bytes = 0;
    digests_.held_out = digest_of(Split::validation, tokenizer, [&](std::span<const int32_t> ids) {
      validation_bytes += static_cast<int64_t>(tokenizer.decode(ids).size());
    });
    if (num_tokens(Split::validation) > 0)
      bytes_per_token_ =
          static_cast<double>(validation_bytes) / static_cast<double>(num_tokens(Split::validation));
  }

  std::string fingerprint() const override { return digests_.train + digests_.held_out; }
  DataDigests digests() const override { return digests_; }
  double bytes_per_token() const override { return bytes_per_token_; }
  std::string description() const override {
    return describe_split(fmt::format("{} files", documents_->num_files()));
  }

 private:
  void hold_out_some(const DataRecipe& recipe) {
    const int64_t all = documents_->num_tokens();
    std::vector<TokenRange> chosen;
    if (recipe.split == "auto" || recipe.split == "documents")
      for (size_t i = 0; i < documents_->num_documents(); ++i)
        if (is_held_out(documents_->digest(i), recipe.split_seed, recipe.val_fraction))
          chosen.push_back(documents_->range(i));
    HeldOut by_document{.tokens = TokenRanges(std::move(chosen)),
                        .description = fmt::format("documents by data.split_seed = {}", recipe.split_seed)};
    const int64_t num_chosen = by_document.tokens.num_tokens();
    if (num_chosen > 0 && num_chosen < all) return split(std::move(by_document), all);
    HEADWAY_CHECK(
        recipe.split != "documents" || recipe.val_fraction == 0, DataError,
        fmt::format(
            "data.split = \"documents\": data.split_seed = {} and data.val_fraction = {} hold out {} of "
            "the documents ({} found): expected some in each split",
            recipe.split_seed, recipe.val_fraction, num_chosen == 0 ? "none" : "all",
            documents_->num_files()));
    split(hold_out(recipe, all), all);
  }

  void read_all(int64_t at, std::span<int32_t> ids) const override { documents_->read(at, ids); }

  /// Of a split's ids in 16 bits where the vocabulary allows it; each piece that is read is handed on.
  std::string digest_of(Split part, const Tokenizer& tokenizer,
                        const std::function<void(std::span<const int32_t>)>& look) const {
    constexpr int64_t kPiece = 1 << 18;
    const bool is_wide = tokenizer.vocab_size() > std::numeric_limits<uint16_t>::max() + 1;
    Xxh3 digest;
    std::vector<int32_t> ids;
    for (int64_t offset = 0; offset < num_tokens(part); offset += kPiece) {
      throw_if_stop_requested();
      ids.resize(static_cast<size_t>(std::min(kPiece, num_tokens(part) - offset)));
      read(part, offset, ids);
      if (is_wide) {
        digest.add(ids.data(), ids.size() * sizeof(int32_t));
      } else {
        const std::vector<uint16_t> narrow(ids.begin(), ids.end());
        digest.add(narrow.data(), narrow.size() * sizeof(uint16_t));
      }
      look(ids);
    }
    return digest.digest();
  }

  std::shared_ptr<const TextDocuments> documents_;
  double bytes_per_token_ = 0;
  DataDigests digests_;
};

}  // namespace

std::unique_ptr<TokenCorpus> open_text_corpus(const DataRecipe& recipe, const Tokenizer& tokenizer,
                                              std::shared_ptr<const TextDocuments> documents) {
  return std::make_unique<TextCorpus>(recipe, tokenizer, std::move(documents));
}

}  // namespace headway
