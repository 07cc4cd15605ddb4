// Files by pattern: *, ?, [set] within a name, ** for folders of any depth.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace headway {

/// Regular files that match any of the patterns, sorted, each once, under whatever names or links it is
/// found. A pattern that names a folder stands for everything below it. Folders of runs and sweeps are left
/// out, unless their names are written out. DataError naming the first pattern that matches nothing.
std::vector<std::filesystem::path> find_files(std::span<const std::string> patterns, std::string_view key);

}  // namespace headway
