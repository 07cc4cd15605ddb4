#include "core/io/archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "core/backend.h"

namespace headway {
namespace {

std::string name_of(std::string_view path) { return path.empty() ? "the root" : std::string(path); }

template <class T>
const T& typed(const ArchiveReader& reader, std::string_view path, std::string_view name, const char* kind) {
  const Attributes& attributes = reader.attributes(path);
  const auto found = attributes.find(name);
  HEADWAY_CHECK(found != attributes.end(), CheckpointError,
                fmt::format("{}: {} has no attribute {}", reader.source(), name_of(path), name));
  const T* value = std::get_if<T>(&found->second);
  HEADWAY_CHECK(value, CheckpointError,
                fmt::format("{}: attribute {} of {} is not {}", reader.source(), name, name_of(path), kind));
  return *value;
}

std::vector<std::byte> bytes_of(ArchiveReader& reader, const ArchiveEntry& entry, Stream& stream) {
  const Tensor tensor = Tensor::empty(entry.shape, entry.dtype, Device{});
  reader.tensor(entry.path, tensor, stream);
  const auto* first = static_cast<const std::byte*>(tensor.raw());
  return {first, first + tensor.bytes()};
}

}  // namespace

bool ArchiveReader::has_attribute(std::string_view path, std::string_view name) const {
  const Attributes& all = attributes(path);
  return all.find(name) != all.end();
}
int64_t ArchiveReader::integer(std::string_view path, std::string_view name) const {
  return typed<int64_t>(*this, path, name, "an integer");
}
double ArchiveReader::number(std::string_view path, std::string_view name) const {
  return typed<double>(*this, path, name, "a number");
}
std::string ArchiveReader::string(std::string_view path, std::string_view name) const {
  return typed<std::string>(*this, path, name, "a string");
}

bool is_below(std::string_view path, std::string_view group) {
  return group.empty() || path == group || (path.starts_with(group) && path[group.size()] == '/');
}

void check_fits(const ArchiveReader& reader, const ArchiveEntry& stored, const Tensor& into) {
  HEADWAY_CHECK(
      into.shape() == stored.shape && into.dtype() == stored.dtype, CheckpointError,
      fmt::format("{}: {} is {} {}, expected {} {}", reader.source(), stored.path, to_string(stored.dtype),
                  stored.shape.to_string(), to_string(into.dtype()), into.shape().to_string()));
  HEADWAY_CHECK(into.is_contiguous(), ShapeError,
                fmt::format("{}: loaded into a tensor that is not contiguous", stored.path));
}

std::vector<std::string> differences(ArchiveReader& a, ArchiveReader& b,
                                     std::span<const std::string_view> ignored) {
  const std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  std::vector<std::string> found;
  std::map<std::string, ArchiveEntry> of_a, of_b;
  for (const ArchiveEntry& entry : a.entries("")) of_a.emplace(entry.path, entry);
  for (const ArchiveEntry& entry : b.entries("")) of_b.emplace(entry.path, entry);
  for (const auto& [path, entry] : of_b)
    if (!of_a.contains(path)) found.push_back(fmt::format("tensor {} is only in {}", path, b.source()));
  for (const auto& [path, entry] : of_a) {
    const auto other = of_b.find(path);
    if (other == of_b.end()) {
      found.push_back(fmt::format("tensor {} is only in {}", path, a.source()));
    } else if (entry.dtype != other->second.dtype || !(entry.shape == other->second.shape)) {
      found.push_back(fmt::format("tensor {} is {} {} and {} {}", path, to_string(entry.dtype),
                                  entry.shape.to_string(), to_string(other->second.dtype),
                                  other->second.shape.to_string()));
    } else if (bytes_of(a, entry, *stream) != bytes_of(b, other->second, *stream)) {
      found.push_back(fmt::format("tensor {} has other bits", path));
    }
  }
  const std::vector<std::string> texts_a = a.texts(""), texts_b = b.texts("");
  for (const std::string& path : texts_b)
    if (!std::ranges::binary_search(texts_a, path))
      found.push_back(fmt::format("text {} is only in {}", path, b.source()));
  for (const std::string& path : texts_a) {
    if (!std::ranges::binary_search(texts_b, path))
      found.push_back(fmt::format("text {} is only in {}", path, a.source()));
    else if (a.text(path) != b.text(path))
      found.push_back(fmt::format("text {} differs", path));
  }
  std::set<std::string> attributed;
  for (const ArchiveReader* reader : {&a, &b})
    for (const std::string& path : reader->attributed("")) attributed.insert(path);
  for (const std::string& path : attributed) {
    Attributes left = a.attributes(path), right = b.attributes(path);
    for (const std::string_view name : ignored) left.erase(std::string(name)), right.erase(std::string(name));
    if (left != right) found.push_back(fmt::format("attributes of {} differ", name_of(path)));
  }
  return found;
}

}  // namespace headway
