// Text files as a corpus: each file is a document, encoded and followed by end of text, in the order of their
// paths. A document belongs to the validation split when a hash of its content and the seed falls below
// val_fraction, so the split does not depend on the order or number of the other files.
#include "trainers/data/text_corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/error.h"
#include "core/io/digest.h"
#include "core/rng.h"
#include "core/text/glob.h"
#include "trainers/data/token_array.h"
#include "trainers/progress.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  HEADWAY_CHECK(in, DataError,
                fmt::format("data.text: cannot read {}: {}", path.string(), std::strerror(errno)));
  std::string text(static_cast<size_t>(in.tellg()), '\0');
  in.seekg(0);
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  HEADWAY_CHECK(in, DataError,
                fmt::format("data.text: cannot read {}: {}", path.string(), std::strerror(errno)));
  return text;
}

class TextCorpus final : public TokenCorpus {
 public:
  TextCorpus(const DataRecipe& recipe, const Tokenizer& tokenizer, int64_t seed)
      : train_(tokenizer.vocab_size()), validation_(tokenizer.vocab_size()) {
    const std::vector<fs::path> files = find_files(recipe.text, "data.text");
    num_files_ = static_cast<int64_t>(files.size());
    int64_t validation_bytes = 0, bytes_left = recipe.max_bytes > 0 ? recipe.max_bytes : INT64_MAX;
    std::vector<int32_t> ids;
    std::string document_digests;
    for (const fs::path& file : files) {
      if (bytes_left == 0) break;
      std::string text = read_file(file);
      if (static_cast<int64_t>(text.size()) > bytes_left) text.resize(static_cast<size_t>(bytes_left));
      bytes_left -= static_cast<int64_t>(text.size());
      const std::string digest = xxh3_64(text.data(), text.size());
      document_digests += digest;
      const bool held_out = is_held_out(digest, seed, recipe.val_fraction);
      if (held_out) validation_bytes += static_cast<int64_t>(text.size());
      ids.clear();
      tokenizer.encode(text, ids);
      ids.push_back(tokenizer.end_of_text());
      (held_out ? validation_ : train_).append(ids);
    }
    if (recipe.val_fraction > 0 && (validation_.size() == 0 || train_.size() == 0)) {
      // Too few documents to share out: the end of the text is held out instead.
      train_.append(validation_.take_last(validation_.size()));
      ids = train_.take_last(static_cast<int64_t>(recipe.val_fraction * static_cast<double>(train_.size())));
      validation_.append(ids);
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
    return fmt::format("{} files, {} training and {} validation tokens", num_files_,
                       format_count(static_cast<double>(train_.size())),
                       format_count(static_cast<double>(validation_.size())));
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
  DataDigests digests_;
};

}  // namespace

std::unique_ptr<TokenCorpus> open_text_corpus(const DataRecipe& recipe, const Tokenizer& tokenizer,
                                              int64_t seed) {
  return std::make_unique<TextCorpus>(recipe, tokenizer, seed);
}

}  // namespace headway
