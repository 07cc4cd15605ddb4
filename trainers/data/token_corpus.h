// A text as tokens, in two splits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "trainers/data/example_source.h"
#include "trainers/data/token_ranges.h"

namespace headway {

class TokenCorpus {
 public:
  virtual ~TokenCorpus() = default;

  virtual int64_t num_tokens(Split) const = 0;
  /// Tokens offset .. offset + ids.size() of a split. DataError when the source changed under the run.
  virtual void read(Split, int64_t offset, std::span<int32_t> ids) const = 0;
  /// Digest of all tokens: equal on every rank and after a resume, or the run must not go on.
  virtual std::string fingerprint() const = 0;
  virtual DataDigests digests() const = 0;
  /// Bytes of text that a token of the validation split stands for, on average; 0 where it is not known.
  virtual double bytes_per_token() const = 0;
  /// As of ExampleSource.
  virtual int64_t largest_shard_id() const { return -1; }
  /// "1,204 files, 12.3M training and 0.6M validation tokens (held out: documents by data.split_seed = 0)"
  virtual std::string description() const = 0;

  /// By data.text, whose documents are given, or data.tokens. DataError for what is missing, empty, damaged
  /// or outside vocab_size.
  static std::unique_ptr<TokenCorpus> open(const DataRecipe&, const Tokenizer&, int64_t vocab_size,
                                           std::shared_ptr<const TextDocuments>);
};

/// What is held out where whole documents are not.
struct HeldOut {
  TokenRanges tokens;
  std::string description = "nothing";
};
/// By data.split ("auto" is the end here), data.val_fraction and data.split_seed. DataError where a text has
/// too few blocks.
HeldOut hold_out(const DataRecipe&, int64_t num_tokens);

/// A corpus whose splits are parts of one sequence of tokens.
class SplitCorpus : public TokenCorpus {
 public:
  int64_t num_tokens(Split part) const final { return tokens(part).num_tokens(); }
  void read(Split, int64_t offset, std::span<int32_t> ids) const final;

 protected:
  /// Before anything is read.
  void split(HeldOut, int64_t num_tokens);
  const TokenRanges& tokens(Split part) const { return part == Split::train ? train_ : held_out_.tokens; }
  /// description() of a text that consists of this.
  std::string describe_split(const std::string& text) const;
  /// Tokens of the whole sequence, whatever their split.
  virtual void read_all(int64_t at, std::span<int32_t> ids) const = 0;

 private:
  TokenRanges train_;
  HeldOut held_out_;
};

}  // namespace headway
