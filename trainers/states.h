// What a checkpoint keeps of a run, beside the optimiser.
#pragma once

#include <string>

#include "core/io/archive.h"
#include "core/text/tokenizer.h"
#include "layers/module.h"
#include "trainers/recipe.h"
#include "trainers/step_health.h"

namespace headway {

/// Steps, tokens and sequences that no run reaches; sums and products with a batch stay far from overflow.
inline constexpr int64_t kMostSteps = 1'000'000'000'000'000;

/// An attribute that is an integer from min to max; CheckpointError where it is not.
int64_t integer_in_range(const ArchiveReader&, std::string_view path, std::string_view name, int64_t min,
                         int64_t max);

/// /model: fp32 values of all parameters, and the buffers of layers. Loading renews the bf16 copies.
class ModelState final : public Stateful {
 public:
  explicit ModelState(Module& model) : model_(model) {}
  void save(ArchiveWriter&, std::string_view prefix) const override;
  void load(ArchiveReader&, std::string_view prefix, Stream&) override;

 private:
  Module& model_;
};

/// /state: how far the run has come. Loading checks ranges, and the step against that of the root.
struct RunState final : Stateful {
  int64_t step = 0;     // updates, skipped ones included
  int64_t tokens = 0;   // trained on
  int64_t skipped = 0;  // updates left out because something was not finite
  StepHealth health;    // checkpoints of earlier versions do not have it

  void save(ArchiveWriter&, std::string_view prefix) const override;
  void load(ArchiveReader&, std::string_view prefix, Stream&) override;
};

/// /data and /rng: the place in the training order, and what that order depends on. Loading into a run with
/// another order, other data, another seed or sequence length is a CheckpointError that names both values.
struct DataState final : Stateful {
  std::string order;  // the rule by which a cursor stands for a sample
  std::string fingerprint;
  int64_t seed = 0;
  int64_t seq_len = 0;
  int64_t cursor = 0;  // sequences consumed

  void save(ArchiveWriter&, std::string_view prefix) const override;
  void load(ArchiveReader&, std::string_view prefix, Stream&) override;
  /// The cursor, in range, of an archive on any data.
  static int64_t stored_cursor(const ArchiveReader&, std::string_view prefix);
  /// "the digest of the training data: 1234 -> 5678" where an archive was written on other data; else empty.
  std::string difference(const ArchiveReader&, std::string_view prefix) const;
};

/// /tokenizer: enough to build it again without the recipe's files.
class TokenizerState final : public Stateful {
 public:
  explicit TokenizerState(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  void save(ArchiveWriter&, std::string_view prefix) const override;
  /// The tokenizer is the run's own; a different one in the checkpoint is a CheckpointError.
  void load(ArchiveReader&, std::string_view prefix, Stream&) override;

 private:
  const Tokenizer& tokenizer_;
};

/// recipe: the archive's own.
std::unique_ptr<Tokenizer> load_tokenizer(ArchiveReader&, const Recipe&);

}  // namespace headway
