#include "core/io/memory_archive.h"

#include <fmt/format.h>

namespace headway {
namespace {

template <class Map>
std::vector<std::string> paths_below(const Map& map, std::string_view group) {
  std::vector<std::string> paths;
  for (const auto& [path, value] : map)
    if (is_below(path, group)) paths.push_back(path);
  return paths;
}

}  // namespace

void MemoryArchive::tensor(std::string_view path, const Tensor& tensor) {
  tensors_.insert_or_assign(std::string(path), tensor.clone(stream_));
}
void MemoryArchive::text(std::string_view path, std::string_view value) {
  texts_.insert_or_assign(std::string(path), std::string(value));
}
void MemoryArchive::attribute(std::string_view path, std::string_view name, int64_t value) {
  attributes_[std::string(path)].insert_or_assign(std::string(name), value);
}
void MemoryArchive::attribute(std::string_view path, std::string_view name, double value) {
  attributes_[std::string(path)].insert_or_assign(std::string(name), value);
}
void MemoryArchive::attribute(std::string_view path, std::string_view name, std::string_view value) {
  attributes_[std::string(path)].insert_or_assign(std::string(name), std::string(value));
}

bool MemoryArchive::has(std::string_view path) const {
  return tensors_.find(path) != tensors_.end() || texts_.find(path) != texts_.end();
}

std::vector<ArchiveEntry> MemoryArchive::entries(std::string_view group) const {
  std::vector<ArchiveEntry> found;
  for (const auto& [path, tensor] : tensors_)
    if (is_below(path, group)) found.push_back({path, tensor.shape(), tensor.dtype()});
  return found;
}

std::vector<std::string> MemoryArchive::texts(std::string_view group) const {
  return paths_below(texts_, group);
}
std::vector<std::string> MemoryArchive::attributed(std::string_view group) const {
  return paths_below(attributes_, group);
}

const Attributes& MemoryArchive::attributes(std::string_view path) const {
  static const Attributes kNone;
  const auto found = attributes_.find(path);
  return found == attributes_.end() ? kNone : found->second;
}

void MemoryArchive::tensor(std::string_view path, const Tensor& into, Stream& stream) {
  const auto found = tensors_.find(path);
  HEADWAY_CHECK(found != tensors_.end(), CheckpointError, fmt::format("memory: there is no tensor {}", path));
  check_fits(*this, {found->first, found->second.shape(), found->second.dtype()}, into);
  into.copy_from(found->second, stream);
}

std::string MemoryArchive::text(std::string_view path) {
  const auto found = texts_.find(path);
  HEADWAY_CHECK(found != texts_.end(), CheckpointError, fmt::format("memory: there is no text {}", path));
  return found->second;
}

}  // namespace headway
