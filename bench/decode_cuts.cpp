// How often does a text go on differently when it is cut and read again? The model continues prompts at
// temperature 0; each of its texts is cut at places spread evenly over the continuation, and the tokens
// before a cut are read in one pass and continued. They differ where the numbers of a pass over many tokens
// are rounded other than those of one token at a time, and a choice (of keys, of heads, of the likeliest
// token) depends on it.
//
// Usage: decode_cuts RUN TEXT [DEVICE [CUTS [TOKENS]]], by default cpu, 200 cuts, continuations of 192
// tokens; TEXT is a file of which 10 prompts of 64 tokens are taken. Prints a line per prompt and the number
// of cuts that differ.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/error.h"
#include "trainers/commands/loaded_model.h"
#include "trainers/sampling.h"

namespace headway {
namespace {

constexpr int64_t kPrompts = 10, kPromptTokens = 64;

/// The `count` likeliest tokens after `tokens`, each after all before it.
std::vector<int32_t> greedy(const LoadedModel& loaded, std::vector<int32_t> tokens, int64_t count,
                            Stream& stream) {
  Rng rng(0);  // nothing is drawn
  Context ctx{.stream = stream, .rng = rng};
  const auto length = static_cast<int64_t>(tokens.size());
  DecodeState state = loaded.model->make_state(1, length + count, stream.device());
  std::vector<int32_t> text;
  while (static_cast<int64_t>(text.size()) < count) {
    const Tensor input = Tensor::from<int32_t>(tokens, {1, static_cast<int64_t>(tokens.size())}, stream);
    const auto logits = loaded.model->next_logits(ctx, input, state).to_vector<float>(stream);
    const std::span known(logits.data(), static_cast<size_t>(loaded.tokenizer->vocab_size()));
    text.push_back(sample_token(known, {.temperature = 0}, {}, 0));
    tokens.assign(1, text.back());
  }
  return text;
}

void run(const std::string& folder, const std::string& file, const std::string& device, int64_t cuts,
         int64_t count) {
  const auto stream = backend(Device::parse(device)).make_stream();
  const LoadedModel loaded = load_model(folder, {}, *stream);
  std::ifstream in(file, std::ios::binary);
  std::vector<int32_t> corpus;
  loaded.tokenizer->encode(std::string(std::istreambuf_iterator<char>(in), {}), corpus);
  const auto available = static_cast<int64_t>(corpus.size());
  HEADWAY_CHECK(
      available >= kPrompts * kPromptTokens, ConfigError,
      fmt::format("{} has {} tokens: expected at least {}", file, available, kPrompts * kPromptTokens));

  int64_t tried = 0, differ = 0;
  for (int64_t p = 0; p < kPrompts; ++p) {
    const auto first = corpus.begin() + p * (available / kPrompts);
    const std::vector<int32_t> prompt(first, first + kPromptTokens);
    const std::vector<int32_t> text = greedy(loaded, prompt, count, *stream);
    int64_t here = 0;
    const int64_t of_prompt = cuts * (p + 1) / kPrompts - cuts * p / kPrompts;
    for (int64_t c = 1; c <= of_prompt; ++c) {
      const auto cut = text.begin() + c * count / (of_prompt + 1);
      std::vector<int32_t> read = prompt;
      read.insert(read.end(), text.begin(), cut);
      here +=
          !std::ranges::equal(greedy(loaded, read, text.end() - cut, *stream), std::span(cut, text.end()));
    }
    tried += of_prompt, differ += here;
    fmt::print("prompt {:2}: {} of {} cuts differ\n", p, here, of_prompt);
    std::fflush(stdout);
  }
  fmt::print("{} on {}: {} of {} cuts differ\n",
             loaded.recipe.model.attention.summary(loaded.recipe.model.num_layers), device, differ, tried);
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: decode_cuts RUN TEXT [DEVICE [CUTS [TOKENS]]]\n");
    return 2;
  }
  try {
    headway::run(argv[1], argv[2], argc > 3 ? argv[3] : "cpu", argc > 4 ? std::atoll(argv[4]) : 200,
                 argc > 5 ? std::atoll(argv[5]) : 192);
  } catch (const std::exception& error) {
    fmt::print(stderr, "decode_cuts: {}\n", error.what());
    return 1;
  }
  return 0;
}
