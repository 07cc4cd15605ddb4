// Text files as a corpus: each file is a document, encoded and followed by end of text, in the order of their
// paths. A document is held out when a hash of its content and data.split_seed falls below val_fraction, so
// the split does not depend on the order or number of the other files. Where that leaves one of the splits
// without a document, or data.split says so, a part of the text is held out instead
// (trainers/data/token_ranges.h).
#include "trainers/data/text_corpus.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/io/digest.h"
#include "core/rng.h"
#include "core/stop_signal.h"
#include "core/text/glob.h"
#include "core/text/text_file.h"
#include "trainers/data/token_array.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

class TextCorpus final : public TokenCorpus {
 public:
  TextCorpus(const DataRecipe& recipe, const Tokenizer& tokenizer)
      : train_(tokenizer.vocab_size()), validation_(tokenizer.vocab_size()) {
    const std::vector<fs::path> files = find_files(recipe.text, "data.text");
    num_files_ = static_cast<int64_t>(files.size());
    const bool by_document = recipe.split == "auto" || recipe.split == "documents";
    int64_t num_bytes = 0, validation_bytes = 0,
            bytes_left = recipe.max_bytes > 0 ? recipe.max_bytes : INT64_MAX;
    std::vector<int32_t> ids;
    std::string document_digests;
    for (const fs::path& file : files) {
      if (bytes_left == 0) break;
      throw_if_stop_requested();
      const std::string text = read_text_file(file, "data.text", bytes_left);
      bytes_left -= static_cast<int64_t>(text.size());
      num_bytes += static_cast<int64_t>(text.size());
      const std::string digest = xxh3_64(text.data(), text.size());
      document_digests += digest;
      const bool held_out = by_document && is_held_out(digest, recipe.split_seed, recipe.val_fraction);
      if (held_out) validation_bytes += static_cast<int64_t>(text.size());
      ids.clear();
      tokenizer.encode(text, ids);
      ids.push_back(tokenizer.end_of_text());
      (held_out ? validation_ : train_).append(ids);
    }
    HEADWAY_CHECK(
        num_bytes > 0, DataError,
        fmt::format("data.text: {} holds no text",
                    files.size() == 1 ? files[0].string()
                                      : fmt::format("none of the {} files that match", files.size())));
    if (validation_.size() > 0 && train_.size() > 0) {
      held_out_ = fmt::format("documents by data.split_seed = {}", recipe.split_seed);
    } else if (recipe.val_fraction > 0) {
      HEADWAY_CHECK(
          recipe.split != "documents", DataError,
          fmt::format(
              "data.split = \"documents\": data.split_seed = {} and data.val_fraction = {} hold out {} of "
              "the documents ({} found): expected some in each split",
              recipe.split_seed, recipe.val_fraction, train_.size() > 0 ? "none" : "all", num_files_));
      if (train_.size() == 0) std::swap(train_, validation_);
      const HeldOut held_out = hold_out(recipe, train_.size());
      held_out_ = held_out.description;
      validation_ = train_.take(held_out.tokens.ranges());
      ids.resize(static_cast<size_t>(validation_.size()));
      validation_.read(0, ids);
      validation_bytes = static_cast<int64_t>(tokenizer.decode(ids).size());
    }
    train_.shrink_to_fit();
    validation_.shrink_to_fit();
    if (validation_.size() > 0)
      bytes_per_token_ = static_cast<double>(validation_bytes) / static_cast<double>(validation_.size());
    digests_ = {.all = xxh3_64(document_digests.data(), document_digests.size()),
                .train = xxh3_64(train_.bytes().data(), train_.bytes().size()),
                .held_out = xxh3_64(validation_.bytes().data(), validation_.bytes().size())};
  }

  int64_t num_tokens(Split split) const override { return tokens(split).size(); }
  void read(Split split, int64_t offset, std::span<int32_t> out) const override {
    tokens(split).read(offset, out);
  }
  std::string fingerprint() const override { return digests_.train + digests_.held_out; }
  DataDigests digests() const override { return digests_; }
  double bytes_per_token() const override { return bytes_per_token_; }
  std::string description() const override {
    return describe_split(fmt::format("{} files", num_files_), train_.size(), validation_.size(), held_out_);
  }

 private:
  static bool is_held_out(const std::string& digest, int64_t seed, double fraction) {
    const RandomKey key{static_cast<uint64_t>(seed), 0, stream_of(digest.c_str()), 0};
    return static_cast<double>(uniform(key, 0)) < fraction;
  }
  const TokenArray& tokens(Split split) const { return split == Split::train ? train_ : validation_; }

  TokenArray train_, validation_;
  int64_t num_files_ = 0;
  double bytes_per_token_ = 0;
  std::string held_out_ = "nothing";
  DataDigests digests_;
};

}  // namespace

std::unique_ptr<TokenCorpus> open_text_corpus(const DataRecipe& recipe, const Tokenizer& tokenizer) {
  return std::make_unique<TextCorpus>(recipe, tokenizer);
}

}  // namespace headway
