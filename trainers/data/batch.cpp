#include "trainers/data/batch.h"

#include <algorithm>

namespace headway {
namespace {

Batch batch_of(const ExampleSource& source, Split split, std::vector<int64_t> ids, int64_t seq_len,
               Stream& stream) {
  const auto count = static_cast<int64_t>(ids.size());
  const auto row = static_cast<size_t>(seq_len);
  std::vector<int32_t> tokens(ids.size() * row), targets(ids.size() * row, -1);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= source.num_examples(split)) continue;
    source.read(split, ids[i], std::span(tokens).subspan(i * row, row),
                std::span(targets).subspan(i * row, row));
  }
  Batch batch;
  batch.num_targets = std::count_if(targets.begin(), targets.end(), [](int32_t id) { return id >= 0; });
  batch.tokens = Tensor::from<int32_t>(tokens, {count, seq_len}, stream);
  batch.targets = Tensor::from<int32_t>(targets, {count, seq_len}, stream);
  batch.sample_ids = std::move(ids);
  return batch;
}

}  // namespace

Batch training_batch(const ExampleSource& source, const SampleOrder& order, int64_t first, int64_t count,
                     int64_t seq_len, Stream& stream) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(order.sample(first + i));
  return batch_of(source, Split::train, std::move(ids), seq_len, stream);
}

Batch validation_batch(const ExampleSource& source, int64_t first, int64_t count, int64_t seq_len,
                       Stream& stream) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(first + i);
  return batch_of(source, Split::validation, std::move(ids), seq_len, stream);
}

}  // namespace headway
