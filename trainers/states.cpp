#include "trainers/states.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/text/printable.h"

namespace headway {
namespace {

constexpr std::string_view kTokenizerPath = "tokenizer";
constexpr std::string_view kDefinition = "definition";
constexpr std::string_view kVocabSize = "vocab_size";

template <class T>
void require_equal(const ArchiveReader& archive, const char* what, const T& stored, const T& own) {
  HEADWAY_CHECK(
      stored == own, CheckpointError,
      fmt::format("{}: {} is {} in the checkpoint but {} in this run", archive.source(), what, stored, own));
}

}  // namespace

int64_t integer_in_range(const ArchiveReader& archive, std::string_view path, std::string_view name,
                         int64_t min, int64_t max) {
  const int64_t value = archive.integer(path, name);
  HEADWAY_CHECK(value >= min && value <= max, CheckpointError,
                fmt::format("{}: attribute {} of {} is {}, expected {} to {}", archive.source(), name,
                            path.empty() ? "the root" : path, value, min, max));
  return value;
}

void ModelState::save(ArchiveWriter& archive, std::string_view prefix) const {
  model_.visit(prefix,
               [&](const std::string& path, Parameter& parameter) { archive.tensor(path, parameter.value); });
  model_.visit_modules(prefix,
                       [&](const std::string& path, Module& module) { module.save_buffers(archive, path); });
}

void ModelState::load(ArchiveReader& archive, std::string_view prefix, Stream& stream) {
  model_.visit(prefix, [&](const std::string& path, Parameter& parameter) {
    archive.tensor(path, parameter.value, stream);
  });
  model_.round_weights(stream);
  model_.visit_modules(
      prefix, [&](const std::string& path, Module& module) { module.load_buffers(archive, path, stream); });
}

void RunState::save(ArchiveWriter& archive, std::string_view prefix) const {
  archive.attribute(prefix, "step", step);
  archive.attribute(prefix, "tokens", tokens);
  archive.attribute(prefix, "skipped", skipped);
  archive.attribute(prefix, "step_health", health.to_text());
}

void RunState::load(ArchiveReader& archive, std::string_view prefix, Stream&) {
  step = integer_in_range(archive, prefix, "step", 0, kMostSteps);
  tokens = integer_in_range(archive, prefix, "tokens", 0, kMostSteps);
  skipped = integer_in_range(archive, prefix, "skipped", 0, step);
  HEADWAY_CHECK(!archive.has_attribute("", "step") || archive.integer("", "step") == step, CheckpointError,
                fmt::format("{}: its step is {} in the root and {} in {}", archive.source(),
                            archive.integer("", "step"), step, prefix));
  if (archive.has_attribute(prefix, "step_health"))
    health = StepHealth::from_text(archive.string(prefix, "step_health"));
}

void DataState::save(ArchiveWriter& archive, std::string_view prefix) const {
  archive.attribute(prefix, "fingerprint", fingerprint);
  archive.attribute(prefix, "order", order);
  archive.attribute(prefix, "rng", "philox4x32-10");
  archive.attribute(prefix, "seed", seed);
  archive.attribute(prefix, "seq_len", seq_len);
  archive.attribute(prefix, "cursor", cursor);
}

void DataState::load(ArchiveReader& archive, std::string_view prefix, Stream&) {
  require_equal(archive, "the order of samples", archive.string(prefix, "order"), order);
  require_equal(archive, "run.seed", archive.integer(prefix, "seed"), seed);
  require_equal(archive, "data.seq_len", archive.integer(prefix, "seq_len"), seq_len);
  require_equal(archive, "the digest of the training data", archive.string(prefix, "fingerprint"),
                fingerprint);
  cursor = stored_cursor(archive, prefix);
}

int64_t DataState::stored_cursor(const ArchiveReader& archive, std::string_view prefix) {
  return integer_in_range(archive, prefix, "cursor", 0, kMostSteps);
}

std::string DataState::difference(const ArchiveReader& archive, std::string_view prefix) const {
  if (!archive.has_attribute(prefix, "fingerprint")) return "";  // loading says so
  const std::string stored = archive.string(prefix, "fingerprint");
  return stored == fingerprint
             ? ""
             : fmt::format("the digest of the training data: {} -> {}", printable(stored), fingerprint);
}

void TokenizerState::save(ArchiveWriter& archive, std::string_view prefix) const {
  archive.attribute(prefix, "kind", tokenizer_.name());
  archive.attribute(prefix, kVocabSize, int64_t{tokenizer_.vocab_size()});
  archive.text(fmt::format("{}/{}", prefix, kDefinition), tokenizer_.definition());
}

void TokenizerState::load(ArchiveReader& archive, std::string_view prefix, Stream&) {
  // An older checkpoint of shards of another tokenizer has the recipe's, which is none of ids
  // (load_tokenizer).
  const std::string stored = archive.string(prefix, "kind");
  const bool is_older_of_shards = !archive.has_attribute(prefix, kVocabSize) &&
                                  tokenizer_.name().starts_with(kSymbolTokenizer) &&
                                  !stored.starts_with(kSymbolTokenizer);
  if (!is_older_of_shards) require_equal(archive, "the tokenizer", stored, tokenizer_.name());
  require_equal(archive, "the tokenizer's vocabulary",
                archive.text(fmt::format("{}/{}", prefix, kDefinition)) == tokenizer_.definition(), true);
}

std::unique_ptr<Tokenizer> load_tokenizer(ArchiveReader& archive, const Recipe& recipe) {
  std::unique_ptr<Tokenizer> tokenizer =
      Tokenizer::restore(archive.string(kTokenizerPath, "kind"),
                         archive.text(fmt::format("{}/{}", kTokenizerPath, kDefinition)));
  // Before vocab_size was kept, the kind was the recipe's, whatever tokenizer the shards came from. A model
  // with more rows than rounding up gives (ModelConfig::resolve) tells of another one.
  constexpr int64_t kRounding = 64;
  const bool is_older = !archive.has_attribute(kTokenizerPath, kVocabSize);
  if (is_older && !recipe.data.tokens.empty() &&
      recipe.model.vocab_size >= tokenizer->vocab_size() + kRounding)
    tokenizer = make_symbol_tokenizer(static_cast<int32_t>(recipe.model.vocab_size));
  return tokenizer;
}

}  // namespace headway
