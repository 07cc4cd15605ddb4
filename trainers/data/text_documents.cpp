#include "trainers/data/text_documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/comm/agreement.h"
#include "core/comm/machine_file.h"
#include "core/error.h"
#include "core/text/glob.h"
#include "core/text/text_file.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kKey = "data.text";

/// Bytes, or the narrowest of 16 and 32 bits that holds every id.
int64_t bytes_per_id(const Tokenizer& tokenizer) {
  if (tokenizer.encodes_bytes()) return 1;
  return tokenizer.vocab_size() <= std::numeric_limits<uint16_t>::max() + 1 ? 2 : 4;
}

int64_t bytes_limit(const DataRecipe& recipe) {
  return recipe.max_bytes > 0 ? recipe.max_bytes : std::numeric_limits<int64_t>::max();
}

/// A file of data.text as it was found.
struct Source {
  WatchedFile file;
  bool is_packed;  // its ids are not its own bytes
};

std::vector<Source> find_sources(const DataRecipe& recipe, const Tokenizer& tokenizer) {
  std::vector<Source> sources;
  for (const fs::path& path : find_files(recipe.text, kKey)) {
    WatchedFile file(path);
    const bool is_plain = text_format(path, kKey) == TextFormat::plain;
    sources.push_back({std::move(file), !is_plain || !tokenizer.encodes_bytes()});
  }
  return sources;
}

/// A packed file, as the rank that packed it tells the others of its machine.
struct Packed {
  int64_t begin = 0;      // of its ids in the temporary file, in bytes
  int64_t num_ids = 0;    // without end of text
  int64_t num_bytes = 0;  // of its text
  std::array<char, 16> digest = {};
};

template <class Id>
void append_as(std::span<const int32_t> ids, ScratchFile& to) {
  const std::vector<Id> narrow(ids.begin(), ids.end());
  to.append(std::as_bytes(std::span(narrow)));
}

void append_ids(std::span<const int32_t> ids, int64_t bytes_each, ScratchFile& to) {
  if (ids.empty()) return;
  if (bytes_each == 1)
    append_as<uint8_t>(ids, to);
  else if (bytes_each == 2)
    append_as<uint16_t>(ids, to);
  else
    to.append(std::as_bytes(ids));
}

/// The ids of all packed sources up to max_bytes of text, then a list of them, then its length.
void pack(const std::vector<Source>& sources, const Tokenizer& tokenizer, int64_t max_bytes,
          ScratchFile& to) {
  std::vector<Packed> list;
  for (const Source& source : sources) {
    if (max_bytes == 0) break;
    if (!source.is_packed) {
      max_bytes -= std::min(max_bytes, source.file.size());
      continue;
    }
    Packed& packed = list.emplace_back(Packed{.begin = to.size()});
    const EncodedFile text =
        encode_text_file(source.file.path(), kKey, max_bytes, tokenizer, [&](std::span<const int32_t> ids) {
          append_ids(ids, bytes_per_id(tokenizer), to);
          packed.num_ids += static_cast<int64_t>(ids.size());
        });
    source.file.require_unchanged();
    packed.num_bytes = text.num_bytes;
    std::ranges::copy(text.digest, packed.digest.begin());
    max_bytes -= text.num_bytes;
  }
  if (list.empty()) return;
  to.append(std::as_bytes(std::span(list)));
  const auto length = static_cast<int64_t>(list.size());
  to.append(std::as_bytes(std::span(&length, 1)));
}

std::vector<Packed> packed_list(const ScratchFile& from) {
  if (from.size() == 0) return {};
  int64_t length = 0;
  constexpr auto kLengthBytes = static_cast<int64_t>(sizeof(length));
  from.read(from.size() - kLengthBytes, std::as_writable_bytes(std::span(&length, 1)));
  std::vector<Packed> list(static_cast<size_t>(length));
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(list));
  from.read(from.size() - kLengthBytes - static_cast<int64_t>(bytes.size()), bytes);
  return list;
}

/// Reads a plain file for its digest, and to see that it is text.
std::string digest_of_plain(const WatchedFile& file, int64_t num_bytes, const Tokenizer& tokenizer) {
  const EncodedFile text =
      encode_text_file(file.path(), kKey, num_bytes, tokenizer, [](std::span<const int32_t>) {});
  file.require_unchanged();
  HEADWAY_CHECK(text.num_bytes == num_bytes, DataError,
                fmt::format("{}: {} has {} bytes where {} were announced", kKey, file.path().string(),
                            text.num_bytes, num_bytes));
  return text.digest;
}

template <class Id>
void widen(std::span<const std::byte> bytes, std::span<int32_t> ids) {
  for (size_t i = 0; i < ids.size(); ++i) {
    Id id;
    std::memcpy(&id, bytes.data() + i * sizeof(Id), sizeof(Id));
    ids[i] = static_cast<int32_t>(id);
  }
}

}  // namespace

TextDocuments::TextDocuments(const DataRecipe& recipe, const Tokenizer& tokenizer, Communicator& comm)
    : end_of_text_(tokenizer.end_of_text()), bytes_per_id_(bytes_per_id(tokenizer)) {
  std::vector<Source> sources;
  agree(comm, [&] {
    HEADWAY_CHECK(end_of_text_ >= 0, ConfigError,
                  "data.text is set, but the model's tokens are ids whose text is not known: expected token "
                  "shards in data.tokens");
    sources = find_sources(recipe, tokenizer);
  });
  num_files_ = static_cast<int64_t>(sources.size());
  const std::string named = num_files_ == 1 ? sources[0].file.path().string()
                                            : fmt::format("none of the {} files that match", num_files_);
  packed_ = write_once_per_machine(
      comm, [&](ScratchFile& to) { pack(sources, tokenizer, bytes_limit(recipe), to); });
  agree_on_long_work(comm, [&] {
    const std::vector<Packed> list = packed_list(packed_);
    auto packed = list.begin();
    int64_t bytes_left = bytes_limit(recipe);
    for (Source& source : sources) {
      if (bytes_left == 0) break;
      Document document;
      int64_t num_bytes = std::min(bytes_left, source.file.size()), num_ids = num_bytes;
      if (source.is_packed) {
        HEADWAY_CHECK(packed != list.end(), DataError,
                      "the ranks of a machine found different files in data.text");
        document.digest.assign(packed->digest.begin(), packed->digest.end());
        document.begin_in_packed = packed->begin;
        num_bytes = packed->num_bytes;
        num_ids = packed->num_ids;
        ++packed;
      } else {
        document.digest = digest_of_plain(source.file, num_bytes, tokenizer);
        document.file = std::move(source.file);
      }
      bytes_left -= num_bytes;
      document.end = num_tokens() + num_ids + 1;
      documents_.push_back(std::move(document));
    }
    HEADWAY_CHECK(num_tokens() > static_cast<int64_t>(documents_.size()), DataError,
                  fmt::format("{}: {} holds no text", kKey, named));
  });
}

void TextDocuments::read(int64_t at, std::span<int32_t> ids) const {
  auto document = std::ranges::upper_bound(documents_, at, {}, &Document::end);
  while (!ids.empty()) {
    const int64_t begin = document == documents_.begin() ? 0 : std::prev(document)->end;
    const int64_t count = std::min(static_cast<int64_t>(ids.size()), document->end - at);
    const bool is_to_the_end = at + count == document->end;
    const std::span<int32_t> part = ids.first(static_cast<size_t>(count));
    read_ids(*document, at - begin, part.first(part.size() - (is_to_the_end ? 1 : 0)));
    if (is_to_the_end) part.back() = end_of_text_;
    ids = ids.subspan(part.size());
    at += count;
    ++document;
  }
}

void TextDocuments::read_ids(const Document& document, int64_t offset, std::span<int32_t> ids) const {
  if (ids.empty()) return;
  std::vector<std::byte> bytes(ids.size() * static_cast<size_t>(bytes_per_id_));
  if (document.file)
    document.file->read(offset, bytes);
  else
    packed_.read(document.begin_in_packed + offset * bytes_per_id_, bytes);
  if (bytes_per_id_ == 1)
    widen<uint8_t>(bytes, ids);
  else if (bytes_per_id_ == 2)
    widen<uint16_t>(bytes, ids);
  else
    widen<int32_t>(bytes, ids);
}

std::shared_ptr<const TextDocuments> open_documents(const DataRecipe& recipe, const Tokenizer& tokenizer,
                                                    Communicator& comm) {
  if (recipe.text.empty()) return nullptr;
  return std::make_shared<TextDocuments>(recipe, tokenizer, comm);
}

TextSize measure_text(const DataRecipe& recipe, const Tokenizer& tokenizer) {
  TextSize size;
  if (recipe.text.empty()) return size;
  // A document's path, digest and place, and what the allocator adds to them.
  constexpr double kPerDocument = 256;
  int64_t bytes_left = bytes_limit(recipe);
  for (const Source& source : find_sources(recipe, tokenizer)) {
    if (bytes_left == 0) break;
    int64_t num_bytes = std::min(bytes_left, source.file.size());
    if (source.is_packed) {
      num_bytes = 0;
      read_text_file(source.file.path(), kKey, bytes_left,
                     [&](std::string_view piece) { num_bytes += static_cast<int64_t>(piece.size()); });
    }
    // Tokenizers that merge bytes need fewer ids.
    const auto ids_bytes = static_cast<double>(num_bytes * bytes_per_id(tokenizer));
    (source.is_packed ? size.packed : size.in_files) += ids_bytes;
    size.in_memory += kPerDocument;
    bytes_left -= num_bytes;
  }
  return size;
}

}  // namespace headway
