#include "core/text/tokenizer.h"

#include <fmt/format.h>

#include <charconv>

#include "core/error.h"
#include "core/text/printable.h"

namespace headway {

std::unique_ptr<Tokenizer> Tokenizer::create(const std::string& name) {
  if (name == "bytes") return make_byte_tokenizer();
  throw ConfigError(fmt::format("data.tokenizer = \"{}\" is unknown: expected bytes", printable(name)));
}

std::unique_ptr<Tokenizer> Tokenizer::restore(const std::string& name, const std::string&) {
  if (name.starts_with(kSymbolTokenizer)) {
    const std::string size = name.substr(kSymbolTokenizer.size());
    int32_t vocab_size = 0;
    const auto [end, error] = std::from_chars(size.data(), size.data() + size.size(), vocab_size);
    if (end == size.data() + size.size() && vocab_size > 0) return make_symbol_tokenizer(vocab_size);
  }
  return create(name);
}

}  // namespace headway
