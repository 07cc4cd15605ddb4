// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace headway {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Appends the ids of text.
  virtual void encode(std::string_view text, std::vector<int32_t>& ids) const = 0;
  /// The bytes of the ids; end_of_text gives none. Ids must be below vocab_size().
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  virtual int32_t vocab_size() const = 0;
  /// Whether the bytes of a text are its ids, so that text may be encoded in pieces and kept as it is.
  virtual bool encodes_bytes() const { return false; }
  /// Written between documents; -1 where tokens are numbers that stand for no text.
  virtual int32_t end_of_text() const = 0;
  /// "bytes", as data.tokenizer says, or "symbols:8192".
  virtual std::string name() const = 0;
  /// What a checkpoint must keep to build it again; empty where the name says all.
  virtual const std::string& definition() const = 0;

  /// By data.tokenizer's value: ConfigError for an unknown one.
  static std::unique_ptr<Tokenizer> create(const std::string& name);
  /// From a checkpoint's name and definition.
  static std::unique_ptr<Tokenizer> restore(const std::string& name, const std::string& definition);
};

/// What names of tokenizers of tasks begin with; the size of the vocabulary follows.
inline constexpr std::string_view kSymbolTokenizer = "symbols:";
/// Tokens whose text is not known or that have none: ids, written with spaces between; no end of text (-1).
/// DataError for text that is no such list.
std::unique_ptr<Tokenizer> make_symbol_tokenizer(int32_t vocab_size);

/// One token per byte, 0..255, and 256 for end of text.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

}  // namespace headway
