// The documents of data.text as token ids that stay on disk: each file is a document, its ids followed by end
// of text, in the order of the paths.
//
// A plain file is its own encoding where the tokenizer encodes bytes: nothing of it is kept, and the kernel's
// page cache serves all ranks of a machine. What is compressed, or encoded by another tokenizer, is written
// to a temporary file once per machine (core/comm/machine_file.h). So a text may be larger than memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "core/io/scratch_file.h"
#include "core/io/watched_file.h"
#include "core/text/tokenizer.h"
#include "trainers/data/token_ranges.h"
#include "trainers/recipe.h"

namespace headway {

class TextDocuments {
 public:
  /// The files that data.text names, up to data.max_bytes. Collective. DataError for patterns without a match
  /// and files that cannot be read, IoError where the temporary file cannot be written, ConfigError for a
  /// tokenizer whose tokens have no text.
  TextDocuments(const DataRecipe&, const Tokenizer&, Communicator&);

  /// Number of files that data.text names, those beyond data.max_bytes included.
  int64_t num_files() const { return num_files_; }
  size_t num_documents() const { return documents_.size(); }
  int64_t num_tokens() const { return documents_.empty() ? 0 : documents_.back().end; }
  /// Where a document's tokens stand among all, end of text included.
  TokenRange range(size_t document) const {
    return {document == 0 ? 0 : documents_[document - 1].end, documents_[document].end};
  }
  /// Digest of a document's text.
  const std::string& digest(size_t document) const { return documents_[document].digest; }
  /// Fills ids with the tokens from `at` on. DataError for a file that has changed.
  void read(int64_t at, std::span<int32_t> ids) const;

 private:
  struct Document {
    int64_t end = 0;  // place behind its last token among all tokens
    std::string digest;
    std::optional<WatchedFile> file;  // holds the ids; without it they are in the temporary file
    int64_t begin_in_packed = 0;      // where they begin there, in bytes
  };
  void read_ids(const Document&, int64_t offset, std::span<int32_t> ids) const;

  int64_t num_files_ = 0;
  int32_t end_of_text_;
  int64_t bytes_per_id_;
  std::vector<Document> documents_;
  ScratchFile packed_;
};

/// Null where data.text is not what a run learns from. Collective.
std::shared_ptr<const TextDocuments> open_documents(const DataRecipe&, const Tokenizer&, Communicator&);

/// What the documents of data.text take, found without keeping them.
struct TextSize {
  double in_memory = 0;  // bytes of each rank: where the documents are
  double in_files = 0;   // bytes read from the files themselves
  double packed = 0;     // bytes of the temporary file of a machine
};
TextSize measure_text(const DataRecipe&, const Tokenizer&);

}  // namespace headway
