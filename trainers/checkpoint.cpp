#include "trainers/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/backend.h"
#include "core/bf16.h"
#include "core/io/atomic_file.h"
#include "core/io/hdf5_archive.h"
#include "core/io/outline_writer.h"
#include "layers/model.h"
#include "trainers/states.h"

namespace headway {
namespace {

constexpr int64_t kMostRanks = 1'000'000'000;

void write_all(ArchiveWriter& writer, std::span<const NamedState> states, const RunInfo& info) {
  write_run_info(writer, info);
  for (const NamedState& named : states) named.state->save(writer, named.prefix);
}

OutlineWriter outline_of(std::span<const NamedState> states) {
  OutlineWriter outline;
  for (const NamedState& named : states) named.state->save(outline, named.prefix);
  return outline;
}

// A stranger's file may differ in very many ways.
std::string listed(const std::vector<std::string>& differences) {
  constexpr size_t kMostListed = 20;
  std::string text;
  for (size_t i = 0; i < std::min(differences.size(), kMostListed); ++i) text += "\n  " + differences[i];
  if (differences.size() > kMostListed)
    text += fmt::format("\n  and {} more", differences.size() - kMostListed);
  return text;
}

std::string described(const ArchiveEntry& entry) {
  return fmt::format("{} {}", to_string(entry.dtype), entry.shape.to_string());
}

// Every difference between the tensors and texts that are stored below the states' prefixes and those they
// would save. A state knows itself which attributes it can do without: an older build did not write all of
// today's.
std::vector<std::string> mismatches(const ArchiveReader& reader, std::span<const NamedState> states,
                                    const OutlineWriter& expected) {
  std::vector<std::string> found;
  std::map<std::string, ArchiveEntry> stored;
  for (const NamedState& named : states)
    for (const ArchiveEntry& entry : reader.entries(named.prefix)) stored.emplace(entry.path, entry);
  for (const auto& [path, entry] : expected.tensors()) {
    const auto other = stored.find(path);
    if (other == stored.end())
      found.push_back(fmt::format("{} is missing ({} expected)", path, described(entry)));
    else if (entry.dtype != other->second.dtype || !(entry.shape == other->second.shape))
      found.push_back(fmt::format("{} is {}, expected {}", path, described(other->second), described(entry)));
  }
  for (const auto& [path, entry] : stored)
    if (!expected.tensors().contains(path))
      found.push_back(fmt::format("{} ({}) is not part of this run", path, described(entry)));
  for (const std::string& path : expected.texts())
    if (!reader.has(path)) found.push_back(fmt::format("text {} is missing", path));
  return found;
}

RunInfo load_from(ArchiveReader& reader, std::span<const NamedState> states, Stream& stream) {
  const std::vector<std::string> found = mismatches(reader, states, outline_of(states));
  HEADWAY_CHECK(found.empty(), CheckpointError,
                fmt::format("{} does not fit this run, {} difference{}:{}", reader.source(), found.size(),
                            found.size() == 1 ? "" : "s", listed(found)));
  for (const NamedState& named : states) named.state->load(reader, named.prefix, stream);
  return read_run_info(reader);
}

// Shows bf16 tensors as f32 where f32 is expected, and widens them when they are read.
class WideningReader final : public ArchiveReader {
 public:
  WideningReader(ArchiveReader& inner, const OutlineWriter& expected) : inner_(inner), expected_(expected) {}

  bool has(std::string_view path) const override { return inner_.has(path); }
  std::vector<ArchiveEntry> entries(std::string_view group) const override {
    std::vector<ArchiveEntry> all = inner_.entries(group);
    for (ArchiveEntry& entry : all)
      if (is_widened(entry)) entry.dtype = DType::f32;
    return all;
  }
  std::vector<std::string> texts(std::string_view group) const override { return inner_.texts(group); }
  std::vector<std::string> attributed(std::string_view group) const override {
    return inner_.attributed(group);
  }
  const Attributes& attributes(std::string_view path) const override { return inner_.attributes(path); }
  std::string text(std::string_view path) override { return inner_.text(path); }
  std::string source() const override { return inner_.source(); }

  void tensor(std::string_view path, const Tensor& into, Stream& stream) override {
    for (const ArchiveEntry& entry : inner_.entries(path)) {
      if (entry.path != path || !is_widened(entry)) continue;
      check_fits(*this, {entry.path, entry.shape, DType::f32}, into);
      const std::unique_ptr<Stream> host = cpu_backend().make_stream();
      const Tensor narrow = Tensor::empty(entry.shape, DType::bf16, Device{});
      inner_.tensor(path, narrow, *host);
      const Tensor wide = Tensor::empty(entry.shape, DType::f32, Device{});
      const bf16* from = narrow.data<bf16>();
      float* to = wide.data<float>();
      for (int64_t i = 0; i < narrow.numel(); ++i) to[i] = static_cast<float>(from[i]);
      into.copy_from(wide, stream);
      stream.synchronize();
      return;
    }
    inner_.tensor(path, into, stream);
  }

 private:
  bool is_widened(const ArchiveEntry& entry) const {
    const auto wanted = expected_.tensors().find(entry.path);
    return entry.dtype == DType::bf16 && wanted != expected_.tensors().end() &&
           wanted->second.dtype == DType::f32;
  }

  ArchiveReader& inner_;
  const OutlineWriter& expected_;
};

/// What a recipe in a checkpoint has wrong is the checkpoint's fault.
template <class Work>
auto with_checkpoint_errors(const Work& work) {
  try {
    return work();
  } catch (const ConfigError& error) {
    throw CheckpointError(error.what());
  }
}

// Buffers are not known before the model has memory: loading compares them.
void check_parameters(const ArchiveReader& reader, const Recipe& recipe) {
  constexpr std::string_view kPrefix = "model";
  std::map<std::string, ArchiveEntry> stored;
  for (const ArchiveEntry& entry : reader.entries(kPrefix)) stored.emplace(entry.path, entry);
  std::vector<std::string> found;
  Model model(recipe.model);
  model.visit(kPrefix, [&](const std::string& path, Parameter& parameter) {
    const auto entry = stored.find(path);
    if (entry == stored.end())
      found.push_back(fmt::format("{} is missing", path));
    else if (!(entry->second.shape == parameter.shape) ||
             (entry->second.dtype != DType::f32 && entry->second.dtype != DType::bf16))
      found.push_back(fmt::format("{} is {}, expected f32 or bf16 {}", path, described(entry->second),
                                  parameter.shape.to_string()));
  });
  HEADWAY_CHECK(found.empty(), CheckpointError,
                fmt::format("{}: the weights are not those of its recipe, {} difference{}:{}",
                            reader.source(), found.size(), found.size() == 1 ? "" : "s", listed(found)));
}

DataDigests read_digests(const ArchiveReader& reader) {
  if (reader.has_attribute("trained_on", "held_out"))
    return {reader.string("trained_on", "all"), reader.string("trained_on", "train"),
            reader.string("trained_on", "held_out")};
  // Older checkpoints of runs on text have the digests of both splits, 16 digits each, in one attribute.
  if (!reader.has_attribute("data", "fingerprint")) return {};
  const std::string both = reader.string("data", "fingerprint");
  return both.size() == 32 ? DataDigests{"", both.substr(0, 16), both.substr(16)} : DataDigests();
}

}  // namespace

void write_run_info(ArchiveWriter& writer, const RunInfo& info) {
  const Environment& env = info.environment;
  writer.attribute("", "step", info.step);
  writer.attribute("", "tokens", info.tokens);
  if (info.val_loss) writer.attribute("", "val_loss", *info.val_loss);
  writer.text("recipe", info.recipe);
  writer.attribute("env", "world_size", env.world_size);
  writer.attribute("env", "threads", env.threads);
  writer.attribute("env", "deterministic", int64_t{env.is_deterministic});
  writer.attribute("env", "device", env.device);
  writer.attribute("env", "dtype", env.dtype);
  writer.attribute("env", "libraries", env.libraries);
  writer.attribute("trained_on", "all", info.trained_on.all);
  writer.attribute("trained_on", "train", info.trained_on.train);
  writer.attribute("trained_on", "held_out", info.trained_on.held_out);
}

RunInfo read_run_info(ArchiveReader& reader) {
  RunInfo info;
  if (reader.has_attribute("", "format_version")) info.format_version = reader.integer("", "format_version");
  info.step = integer_in_range(reader, "", "step", 0, kMostSteps);
  info.tokens = integer_in_range(reader, "", "tokens", 0, kMostSteps);
  if (reader.has_attribute("", "val_loss")) info.val_loss = reader.number("", "val_loss");
  info.recipe = reader.text("recipe");
  info.environment.world_size = integer_in_range(reader, "env", "world_size", 1, kMostRanks);
  info.environment.threads = integer_in_range(reader, "env", "threads", 1, kMostRanks);
  info.environment.is_deterministic = integer_in_range(reader, "env", "deterministic", 0, 1) != 0;
  info.environment.device = reader.string("env", "device");
  info.environment.dtype = reader.string("env", "dtype");
  info.environment.libraries = reader.string("env", "libraries");
  info.trained_on = read_digests(reader);
  return info;
}

Recipe stored_recipe(const RunInfo& info, const std::string& source) {
  return with_checkpoint_errors([&] { return parse_stored_recipe(info.recipe, source + " (recipe)", {}); });
}

std::string age_note(const RunInfo& info, const std::string& source) {
  if (info.format_version >= 2) return "";
  return fmt::format(
      "{} is in format version {}, in which no digest protects attributes: what is saved from now on is in "
      "version {}",
      source, info.format_version, kFormatVersion);
}

void check_loadable(ArchiveReader& reader) {
  Recipe recipe = stored_recipe(read_run_info(reader), reader.source());
  with_checkpoint_errors([&] {
    const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(reader, recipe);
    const std::string expected = recipe.data.make_tokenizer()->name();
    const bool is_of_shards = !recipe.data.tokens.empty() && tokenizer->end_of_text() < 0 &&
                              tokenizer->vocab_size() == recipe.model.vocab_size;
    HEADWAY_CHECK(tokenizer->name() == expected || is_of_shards, CheckpointError,
                  fmt::format("{}: the tokenizer is {}, and the recipe's {}", reader.source(),
                              tokenizer->name(), expected));
    recipe.resolve(tokenizer->vocab_size());  // which has a row for each of its tokens
  });
  check_parameters(reader, recipe);
  if (reader.string("", "format") != kCheckpointFormat) return;
  const std::unique_ptr<Stream> host = cpu_backend().make_stream();
  RunState().load(reader, "state", *host);
  (void)DataState::stored_cursor(reader, "data");
}

uint64_t checkpoint_bytes(std::span<const NamedState> states, const RunInfo& info) {
  // Headers, attributes and links of one dataset take under 1 KiB; groups and heaps are few.
  constexpr uint64_t kPerObject = 2048, kPerFile = 64 * 1024;
  OutlineWriter outline;
  write_all(outline, states, info);
  const uint64_t num_objects =
      outline.tensors().size() + outline.texts().size() + outline.attributes().size();
  return outline.value_bytes() + num_objects * kPerObject + kPerFile;
}

void save_checkpoint(const std::filesystem::path& path, std::span<const NamedState> states,
                     const RunInfo& info, Stream& stream) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  require_free_space(folder, checkpoint_bytes(states, info), "checkpoint " + path.filename().string());
  AtomicFile file(path);
  Hdf5Writer writer(file.temporary(), stream,
                    {.format = kCheckpointFormat, .layout = Hdf5Layout::contiguous});
  write_all(writer, states, info);
  writer.finish();
  file.commit();
}

RunInfo load_checkpoint(const std::filesystem::path& path, std::span<const NamedState> states,
                        Stream& stream) {
  Hdf5Reader reader(path);
  return load_checkpoint(reader, states, stream);
}

RunInfo load_checkpoint(ArchiveReader& reader, std::span<const NamedState> states, Stream& stream) {
  HEADWAY_CHECK(reader.string("", "format") == kCheckpointFormat, CheckpointError,
                fmt::format("{}: holds weights only, a run cannot go on from it", reader.source()));
  return load_from(reader, states, stream);
}

RunInfo load_weights(ArchiveReader& reader, Stateful& model, Stream& stream) {
  const NamedState state{"model", &model};
  const std::span<const NamedState> states(&state, 1);
  const OutlineWriter expected = outline_of(states);
  WideningReader widening(reader, expected);
  return load_from(widening, states, stream);
}

RunInfo load_weights(const std::filesystem::path& path, Stateful& model, Stream& stream) {
  Hdf5Reader reader(path);
  return load_weights(reader, model, stream);
}

MatchingWeights load_matching_weights(ArchiveReader& reader, Module& model, Stream& stream) {
  constexpr std::string_view kPrefix = "model";
  ModelState state(model);
  const NamedState named{std::string(kPrefix), &state};
  const OutlineWriter expected = outline_of(std::span(&named, 1));
  WideningReader widening(reader, expected);
  std::map<std::string, ArchiveEntry> stored;
  for (const ArchiveEntry& entry : widening.entries(kPrefix)) stored.emplace(entry.path, entry);

  MatchingWeights result;
  model.visit(kPrefix, [&](const std::string& path, Parameter& parameter) {
    const auto found = stored.find(path);
    if (found == stored.end()) {
      result.missing.push_back(path);
      return;
    }
    HEADWAY_CHECK(found->second.shape == parameter.shape, CheckpointError,
                  fmt::format("{}: {} has the shape {}, and this model's {}", reader.source(), path,
                              found->second.shape.to_string(), parameter.shape.to_string()));
    widening.tensor(path, parameter.value, stream);
    result.loaded.push_back(path);
    stored.erase(found);
  });
  for (const auto& [path, entry] : stored) result.unused.push_back(path);
  HEADWAY_CHECK(!result.loaded.empty(), CheckpointError,
                fmt::format("{}: holds none of this model's parameters", reader.source()));
  model.round_weights(stream);
  return result;
}

}  // namespace headway
