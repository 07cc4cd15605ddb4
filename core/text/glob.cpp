#include "core/text/glob.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <set>

#include "core/error.h"
#include "core/stop_signal.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

bool is_pattern(const std::string& part) { return part.find_first_of("*?[") != std::string::npos; }

/// What a run or a sweep writes is no text to learn from: its log would change with every run.
bool holds_own_output(const fs::path& folder) {
  std::error_code error;
  const bool is_run =
      fs::exists(folder / "run.json", error) && fs::exists(folder / "recipe.resolved.toml", error);
  const bool is_sweep = fs::exists(folder / ".lock", error) && fs::is_directory(folder / "runs", error);
  return is_run || is_sweep;
}

/// Files that cannot be seen would be missing from the text without a word.
void require_listed(std::string_view key, const fs::path& folder, const std::error_code& error) {
  HEADWAY_CHECK(!error, DataError,
                fmt::format("{}: cannot list {}: {}", key, folder.string(), error.message()));
}

void add_tree(std::string_view key, const fs::path& folder, std::set<fs::path>& files) {
  std::error_code error, listing;
  fs::path latest = folder;
  // Links to folders are not followed here: a tree may link to itself.
  for (fs::recursive_directory_iterator it(folder, listing), end; it != end; it.increment(listing)) {
    throw_if_stop_requested();
    latest = it->path();
    if (it->is_directory(error) && holds_own_output(it->path())) it.disable_recursion_pending();
    if (it->is_regular_file(error)) files.insert(it->path());
  }
  require_listed(key, latest, listing);
}

/// Matches the parts from `next` on below `folder`.
void expand(std::string_view key, const fs::path& folder, std::span<const std::string> parts,
            std::set<fs::path>& files) {
  std::error_code error, listing;
  if (parts.empty()) {
    if (fs::is_regular_file(folder, error))
      files.insert(folder);
    else if (folder.empty() || fs::is_directory(folder, error))
      add_tree(key, folder.empty() ? "." : folder, files);
    return;
  }
  const std::string& part = parts.front();
  if (!is_pattern(part)) {
    const bool exists = fs::exists(folder / part, error);
    HEADWAY_CHECK(!error, DataError,
                  fmt::format("{}: cannot look up {}: {}", key, (folder / part).string(), error.message()));
    if (exists) expand(key, folder / part, parts.subspan(1), files);
    return;
  }
  if (!fs::is_directory(folder.empty() ? "." : folder, error)) return;
  if (part == "**") expand(key, folder, parts.subspan(1), files);
  for (fs::directory_iterator it(folder.empty() ? "." : folder, listing), end; it != end;
       it.increment(listing)) {
    throw_if_stop_requested();
    const std::string name = it->path().filename().string();
    const fs::path below = folder / name;
    if (it->is_directory(error) && holds_own_output(below)) continue;
    if (part == "**") {
      if (it->is_directory(error) && !it->is_symlink(error)) expand(key, below, parts, files);
    } else if (fnmatch(part.c_str(), name.c_str(), FNM_PERIOD) == 0) {
      if (parts.size() > 1 || it->is_regular_file(error)) expand(key, below, parts.subspan(1), files);
    }
  }
  require_listed(key, folder.empty() ? "." : folder, listing);
}

}  // namespace

std::vector<fs::path> find_files(std::span<const std::string> patterns, std::string_view key) {
  std::set<fs::path> files;
  std::set<fs::path> seen;  // by the names without links, so that a file counts once however it is named
  for (const std::string& pattern : patterns) {
    HEADWAY_CHECK(!pattern.empty(), DataError,
                  fmt::format("{}: \"\" names no file: expected a path, perhaps with *, ? or **", key));
    std::vector<std::string> parts;
    const fs::path path(pattern);
    for (const fs::path& part : path.relative_path()) parts.push_back(part.string());
    std::set<fs::path> found;
    expand(key, path.root_path(), parts, found);
    HEADWAY_CHECK(!found.empty(), DataError, fmt::format("{}: no file matches \"{}\"", key, pattern));
    for (const fs::path& file : found) {
      std::error_code error;
      const fs::path canonical = fs::canonical(file, error);
      if (seen.insert(error ? file : canonical).second) files.insert(file);
    }
  }
  return {files.begin(), files.end()};
}

}  // namespace headway
