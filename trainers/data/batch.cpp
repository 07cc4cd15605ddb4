#include "trainers/data/batch.h"

#include <algorithm>

namespace headway {
namespace {

/// Rows of seq_len + 1 tokens, -1 where there is none, as inputs and targets.
Batch split_rows(const std::vector<int32_t>& rows, int64_t count, int64_t seq_len, Stream& stream) {
  std::vector<int32_t> tokens, targets;
  Batch batch;
  for (int64_t i = 0; i < count; ++i) {
    const auto row = rows.begin() + i * (seq_len + 1);
    std::transform(row, row + seq_len, std::back_inserter(tokens),
                   [](int32_t id) { return std::max(id, 0); });
    targets.insert(targets.end(), row + 1, row + seq_len + 1);
  }
  batch.num_targets = std::count_if(targets.begin(), targets.end(), [](int32_t id) { return id >= 0; });
  batch.tokens = Tensor::from<int32_t>(tokens, {count, seq_len}, stream);
  batch.targets = Tensor::from<int32_t>(targets, {count, seq_len}, stream);
  return batch;
}

}  // namespace

int64_t num_training_samples(const TokenCorpus& corpus, int64_t seq_len) {
  return std::max<int64_t>(0, (corpus.num_tokens(Split::train) - 1) / seq_len);
}

int64_t num_validation_windows(const TokenCorpus& corpus, int64_t seq_len) {
  return std::max<int64_t>(0, (corpus.num_tokens(Split::validation) - 1 + seq_len - 1) / seq_len);
}

Batch training_batch(const TokenCorpus& corpus, const SampleOrder& order, int64_t first, int64_t count,
                     int64_t seq_len, Stream& stream) {
  std::vector<int32_t> rows(static_cast<size_t>(count * (seq_len + 1)));
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(order.sample(first + i));
    corpus.read(
        Split::train, ids.back() * seq_len,
        std::span(rows).subspan(static_cast<size_t>(i * (seq_len + 1)), static_cast<size_t>(seq_len + 1)));
  }
  Batch batch = split_rows(rows, count, seq_len, stream);
  batch.sample_ids = std::move(ids);
  return batch;
}

Batch validation_batch(const TokenCorpus& corpus, int64_t first, int64_t count, int64_t seq_len,
                       Stream& stream) {
  std::vector<int32_t> rows(static_cast<size_t>(count * (seq_len + 1)), -1);
  const int64_t end = corpus.num_tokens(Split::validation);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t offset = std::min(end, (first + i) * seq_len), length = std::min(seq_len + 1, end - offset);
    corpus.read(Split::validation, offset,
                std::span(rows).subspan(static_cast<size_t>(i * (seq_len + 1)), static_cast<size_t>(length)));
  }
  return split_rows(rows, count, seq_len, stream);
}

}  // namespace headway
