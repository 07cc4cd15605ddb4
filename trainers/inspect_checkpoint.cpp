#include "trainers/inspect_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/io/hdf5_archive.h"
#include "core/io/limited_child.h"
#include "core/text/printable.h"
#include "trainers/checkpoint.h"
#include "trainers/progress.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

std::string to_text(const AttributeValue& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
  if (const auto* number = std::get_if<double>(&value)) return fmt::format("{}", *number);
  const std::string& text = std::get<std::string>(value);
  constexpr size_t kLongest = 100;
  if (text.size() > kLongest)
    return fmt::format("\"{}...\" ({} characters)", printable(text.substr(0, kLongest)), text.size());
  return fmt::format("\"{}\"", printable(text));
}

std::string state_of_digest(Hdf5Reader& reader, const std::string& path) {
  if (!reader.has_attribute(path, "xxh3")) return "no digest";
  return reader.is_intact(path) ? "intact" : "DAMAGED";
}

std::string listing(Hdf5Reader& reader) {
  std::string text = fmt::format("{}\n", printable(reader.source()));
  for (const std::string& owner : reader.attributed("")) {
    const bool is_dataset = reader.has(owner);
    for (const auto& [name, value] : reader.attributes(owner)) {
      if (is_dataset && (name == "dtype" || name == "xxh3")) continue;
      text += fmt::format("  /{} @{} = {}\n", printable(owner), printable(name), to_text(value));
    }
  }
  size_t widest = 0;
  int64_t num_values = 0, num_model_values = 0;
  const std::vector<ArchiveEntry> entries = reader.entries("");
  for (const ArchiveEntry& entry : entries) {
    widest = std::max(widest, entry.path.size());
    num_values += entry.shape.numel();
    if (is_below(entry.path, "model")) num_model_values += entry.shape.numel();
  }
  for (const std::string& name : reader.texts("")) {
    const std::string state = state_of_digest(reader, name);
    const size_t bytes = state == "DAMAGED" ? 0 : reader.text(name).size();
    text += fmt::format("  /{:<{}}  text  {} bytes  {}\n", printable(name), widest, bytes, state);
  }
  for (const ArchiveEntry& entry : entries)
    text += fmt::format("  /{:<{}}  {:<4}  {:<16}  {}\n", printable(entry.path), widest,
                        to_string(entry.dtype), entry.shape.to_string(), state_of_digest(reader, entry.path));
  return text + fmt::format("  {} tensors, {} values, {} of them in /model\n", entries.size(),
                            with_thousands(num_values), with_thousands(num_model_values));
}

// The largest file that may be read.
uint64_t bytes_of(const fs::path& named) {
  std::vector<fs::path> paths{named};
  std::error_code error;
  if (fs::is_directory(named, error)) {
    paths = list_checkpoints(fs::is_directory(named / "checkpoints", error) ? named / "checkpoints" : named);
  }
  uint64_t most = 0;
  for (const fs::path& path : paths) {
    const uintmax_t bytes = fs::file_size(path, error);
    if (!error) most = std::max<uint64_t>(most, bytes);
  }
  return most;
}

std::string note_of(Hdf5Reader& reader) {
  const std::string note = age_note(read_run_info(reader), reader.source());
  return note.empty() ? "" : "  " + note + "\n";
}

// The problem, a zero byte, the listing. All of it is read from one open file, which a running run may
// delete.
std::string inspected(const fs::path& named, const CheckpointCheck& check) {
  std::error_code missing;
  std::unique_ptr<Hdf5Reader> reader;
  if (fs::is_directory(named, missing)) {
    reader = open_checkpoint(named, check);
    return '\0' + listing(*reader) + note_of(*reader);
  }
  std::string problem;
  try {
    reader = std::make_unique<Hdf5Reader>(named);
    reader->verify();
    if (check) check(*reader);
  } catch (const CheckpointError& error) {
    problem = error.what();
  }
  if (problem.empty()) return '\0' + listing(*reader) + note_of(*reader);
  if (!reader) reader = std::make_unique<Hdf5Reader>(named, Hdf5Reader::Accept::any);
  return problem + '\0' + listing(*reader);
}

}  // namespace

Inspection inspect_checkpoint(const fs::path& named, const CheckpointCheck& check) {
  const std::string answer =
      read_in_limited_child(named, bytes_of(named), [&] { return inspected(named, check); });
  const size_t end = answer.find('\0');
  return {answer.substr(end + 1), answer.substr(0, end)};
}

}  // namespace headway
