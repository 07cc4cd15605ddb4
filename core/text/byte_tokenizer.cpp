#include "core/text/tokenizer.h"

namespace headway {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  }
  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids)
      if (id < 256) text += static_cast<char>(id);
    return text;
  }
  int32_t vocab_size() const override { return 257; }
  bool encodes_bytes() const override { return true; }
  int32_t end_of_text() const override { return 256; }
  std::string name() const override { return "bytes"; }
  const std::string& definition() const override {
    static const std::string none;
    return none;
  }
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

}  // namespace headway
