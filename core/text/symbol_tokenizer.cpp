#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/text/tokenizer.h"

namespace headway {
namespace {

class SymbolTokenizer final : public Tokenizer {
 public:
  explicit SymbolTokenizer(int32_t vocab_size) : vocab_size_(vocab_size) {}

  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    const size_t before = ids.size();
    while (true) {
      text.remove_prefix(std::min(text.find_first_not_of(" \n\t"), text.size()));
      if (text.empty()) break;
      const std::string_view word = text.substr(0, text.find_first_of(" \n\t"));
      int32_t id = -1;
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
      HEADWAY_CHECK(error == std::errc() && end == word.data() + word.size() && id >= 0 && id < vocab_size_,
                    DataError,
                    fmt::format("\"{}\" is no token: expected ids from 0 to {}, with spaces between", word,
                                vocab_size_ - 1));
      ids.push_back(id);
      text.remove_prefix(word.size());
    }
    HEADWAY_CHECK(
        ids.size() > before, DataError,
        fmt::format("no token is given: expected ids from 0 to {}, with spaces between", vocab_size_ - 1));
  }
  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) text += fmt::format(" {}", id);
    return text;
  }
  int32_t vocab_size() const override { return vocab_size_; }
  int32_t end_of_text() const override { return -1; }
  std::string name() const override { return std::string(kSymbolTokenizer) + std::to_string(vocab_size_); }
  const std::string& definition() const override {
    static const std::string none;
    return none;
  }

 private:
  int32_t vocab_size_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_symbol_tokenizer(int32_t vocab_size) {
  return std::make_unique<SymbolTokenizer>(vocab_size);
}

}  // namespace headway
