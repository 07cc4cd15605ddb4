// What a run learns from: numbered examples in two splits, each a row of tokens and a row of targets.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/text/tokenizer.h"
#include "trainers/data/data_digests.h"
#include "trainers/data/text_documents.h"
#include "trainers/recipe.h"

namespace headway {

enum class Split : uint8_t { train, validation };

/// Of a validation example, the epoch means nothing.
struct ExamplePlace {
  Split split = Split::train;
  int64_t index = 0;
  int64_t epoch = 0;
};

class ExampleSource {
 public:
  virtual ~ExampleSource() = default;

  virtual int64_t num_examples(Split) const = 0;
  /// An example as data.seq_len tokens, and for each the token that should follow, or -1 where nothing is
  /// asked. DataError when the source changed under the run.
  virtual void read(const ExamplePlace&, std::span<int32_t> tokens, std::span<int32_t> targets) const = 0;
  /// Digest of all examples: equal on every rank and after a resume, or the run must not go on.
  virtual std::string fingerprint() const = 0;
  /// Of the examples of each split.
  virtual DataDigests digests() const = 0;
  /// Whether targets are answers that can be right or wrong, so that an accuracy means something.
  virtual bool asks_questions() const { return false; }
  /// Bytes of text that a token of the validation split stands for, on average; 0 where it is not known.
  virtual double bytes_per_token() const { return 0; }
  /// Largest id of token shards, which need not come from the run's tokenizer; -1 of anything else.
  virtual int64_t largest_shard_id() const { return -1; }
  /// "1,204 files, 12.3M training and 0.6M validation tokens"
  virtual std::string description() const = 0;

  /// By data.task, data.text, whose documents open_documents() gives, or data.tokens; seed: of a task's
  /// training examples and of the places where text is cut. DataError for what is missing, empty, damaged or
  /// outside vocab_size; ConfigError for a task that does not fit data.seq_len.
  static std::unique_ptr<ExampleSource> open(const DataRecipe&, const Tokenizer&, int64_t seed,
                                             int64_t vocab_size, std::shared_ptr<const TextDocuments>);
};

}  // namespace headway
