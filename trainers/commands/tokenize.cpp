// headway tokenize FILES --out FOLDER
#include <fmt/format.h>

#include <chrono>
#include <limits>

#include "core/io/token_shards.h"
#include "core/text/glob.h"
#include "core/text/text_file.h"
#include "core/text/tokenizer.h"
#include "trainers/commands/command.h"
#include "trainers/progress.h"

namespace headway {
namespace {

struct Options {
  std::vector<std::string> files;
  std::string out, tokenizer = "bytes", prefix = "tokens";
  int64_t shard_tokens = 100'000'000;
};

ExitCode tokenize(const Options& options) {
  const auto tokenizer = Tokenizer::create(options.tokenizer);
  const auto files = find_files(options.files, "tokenize");
  TokenShardWriter writer(options.out, options.prefix, tokenizer->vocab_size(), options.shard_tokens);
  const auto start = std::chrono::steady_clock::now();
  double said = 0;
  const int32_t end_of_text = tokenizer->end_of_text();
  for (size_t i = 0; i < files.size(); ++i) {
    encode_text_file(files[i], "tokenize", std::numeric_limits<int64_t>::max(), *tokenizer,
                     [&](std::span<const int32_t> ids) { writer.write(ids); });
    writer.write(std::span(&end_of_text, 1));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (seconds - said < 5) continue;
    said = seconds;
    const double left = seconds / static_cast<double>(i + 1) * static_cast<double>(files.size() - i - 1);
    fmt::print("file {}/{} | {} tokens | eta {}\n", i + 1, files.size(),
               format_count(static_cast<double>(writer.num_tokens())), format_duration(left));
  }
  writer.finish();
  fmt::print("{} files -> {} tokens in {} shard{} under {}\n", files.size(), writer.num_tokens(),
             writer.num_shards(), writer.num_shards() == 1 ? "" : "s", options.out);
  return ExitCode::ok;
}

Action add_options(OptionList verb) {
  const auto options = std::make_shared<Options>();
  verb.add_footer(
      "Training reads them with data.tokens = [\"FOLDER/*.bin\"] and the same data.tokenizer.\n"
      "Example:\n  headway tokenize 'books/**/*.txt' --out shards");
  verb.add("files", options->files, "paths with *, ? and **; a folder stands for all below it").required();
  verb.add("--out", options->out, "folder of the shards").required();
  verb.add("--tokenizer", options->tokenizer, "bytes: one token per byte");
  verb.add("--prefix", options->prefix, "beginning of the shards' names");
  // The header of a shard counts in 32 bits.
  verb.add("--shard-tokens", options->shard_tokens, "largest number of tokens in a shard")
      .integer_from(1, 2'000'000'000);
  return [options] { return tokenize(*options); };
}

[[maybe_unused]] const bool is_registered = register_command(
    {.name = "tokenize", .summary = "Turn text files into token shards", .add_options = add_options});

}  // namespace
}  // namespace headway
