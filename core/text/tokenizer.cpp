#include "core/text/tokenizer.h"

#include <fmt/format.h>

#include "core/error.h"

namespace headway {

std::unique_ptr<Tokenizer> Tokenizer::create(const std::string& name) { return restore(name, ""); }

std::unique_ptr<Tokenizer> Tokenizer::restore(const std::string& name, const std::string&) {
  if (name == "bytes") return make_byte_tokenizer();
  throw ConfigError(fmt::format("data.tokenizer = \"{}\" is unknown: expected bytes", name));
}

}  // namespace headway
