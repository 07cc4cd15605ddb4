#include "trainers/data/text_windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace headway {
namespace {

class TextWindows final : public ExampleSource {
 public:
  TextWindows(std::unique_ptr<TokenCorpus> corpus, int64_t seq_len)
      : corpus_(std::move(corpus)), seq_len_(seq_len) {
    HEADWAY_CHECK(
        num_examples(Split::train) > 0, DataError,
        fmt::format("the training data has {} tokens: fewer than one sequence of data.seq_len + 1 = {}",
                    corpus_->num_tokens(Split::train), seq_len + 1));
  }

  int64_t num_examples(Split split) const override {
    const int64_t questions = corpus_->num_tokens(split) - 1;
    const int64_t unfinished = split == Split::validation ? seq_len_ - 1 : 0;
    return std::max<int64_t>(0, (questions + unfinished) / seq_len_);
  }
  void read(Split split, int64_t index, std::span<int32_t> tokens,
            std::span<int32_t> targets) const override {
    std::vector<int32_t> window(static_cast<size_t>(seq_len_ + 1), -1);
    const int64_t offset = index * seq_len_,
                  length = std::min(seq_len_ + 1, corpus_->num_tokens(split) - offset);
    corpus_->read(split, offset, std::span(window).first(static_cast<size_t>(length)));
    std::transform(window.begin(), window.end() - 1, tokens.begin(),
                   [](int32_t id) { return std::max(id, 0); });
    std::copy(window.begin() + 1, window.end(), targets.begin());
  }
  std::string fingerprint() const override { return corpus_->fingerprint(); }
  DataDigests digests() const override { return corpus_->digests(); }
  double bytes_per_token() const override { return corpus_->bytes_per_token(); }
  std::string description() const override { return corpus_->description(); }

 private:
  std::unique_ptr<TokenCorpus> corpus_;
  int64_t seq_len_;
};

}  // namespace

std::unique_ptr<ExampleSource> open_text_windows(std::unique_ptr<TokenCorpus> corpus, int64_t seq_len) {
  return std::make_unique<TextWindows>(std::move(corpus), seq_len);
}

}  // namespace headway
