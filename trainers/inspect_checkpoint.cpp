#include "trainers/inspect_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/io/hdf5_archive.h"
#include "core/io/limited_child.h"
#include "trainers/checkpoint_folder.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

// Names and values of a stranger's file must not steer the terminal.
std::string printable(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

std::string to_text(const AttributeValue& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
  if (const auto* number = std::get_if<double>(&value)) return fmt::format("{}", *number);
  return fmt::format("\"{}\"", printable(std::get<std::string>(value)));
}

std::string state_of_digest(Hdf5Reader& reader, const std::string& path) {
  if (!reader.has_attribute(path, "xxh3")) return "no digest";
  return reader.is_intact(path) ? "intact" : "DAMAGED";
}

std::string with_thousands(int64_t number) {
  std::string digits = std::to_string(number);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

std::string listing(const fs::path& path) {
  Hdf5Reader reader(path, Hdf5Reader::Accept::any);
  std::string text = fmt::format("{}\n", path.string());
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

// Empty when a run could use the file.
std::string problem_of(const fs::path& path) {
  try {
    Hdf5Reader reader(path);
    reader.verify();
    return "";
  } catch (const CheckpointError& error) {
    return error.what();
  }
}

}  // namespace

Inspection inspect_checkpoint(const fs::path& named) {
  std::error_code missing;
  const fs::path path = fs::is_directory(named, missing) ? fs::path(open_checkpoint(named)->source()) : named;
  const uintmax_t size = fs::file_size(path, missing);
  const uint64_t file_bytes = missing ? 0 : size;
  // A slow disk delivers 20 MB/s; a tensor is at most as large as the file.
  const ChildLimits limits{.cpu_seconds = 30 + file_bytes / 100'000'000,
                           .wall_seconds = 60 + file_bytes / 10'000'000,
                           .extra_memory_bytes = (uint64_t{1} << 30) + 2 * file_bytes};
  // The problem is the first line, the listing what follows.
  std::string answer;
  try {
    answer = run_in_limited_child(limits, [&] { return problem_of(path) + "\n" + listing(path); });
  } catch (const CheckpointError& error) {
    const std::string why = error.what();
    throw CheckpointError(why.starts_with(path.string()) ? why : path.string() + ": " + why);
  }
  const size_t end = answer.find('\n');
  return {answer.substr(end + 1), answer.substr(0, end)};
}

}  // namespace headway
