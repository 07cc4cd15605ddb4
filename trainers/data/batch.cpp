#include "trainers/data/batch.h"

#include <algorithm>

namespace headway {
namespace {

/// The tokens of `whole` at these positions.
void copy_tokens(std::span<const int32_t> whole, const TokenPositions& positions, std::span<int32_t> own) {
  for (size_t t = 0; t < own.size(); ++t)
    own[t] = whole[static_cast<size_t>(positions.of(static_cast<int64_t>(t)))];
}

Batch batch_of(const ExampleSource& source, const std::vector<ExamplePlace>& places, int64_t seq_len,
               const SequenceSplit* split, Stream& stream) {
  const auto count = static_cast<int64_t>(places.size());
  const int64_t own_len = split ? seq_len / split->zigzag().num_ranks : seq_len;
  const auto row = static_cast<size_t>(own_len);
  const Device device = stream.device();
  Batch batch;
  batch.on_host = Tensor::empty_on_host({2, count, own_len}, DType::i32, device);
  const std::span<int32_t> all(batch.on_host.data<int32_t>(), 2 * places.size() * row);
  const std::span<int32_t> tokens = all.first(places.size() * row), targets = all.last(places.size() * row);
  const TokenPositions positions = split ? split->positions(own_len) : TokenPositions{};
  std::vector<int32_t> whole_tokens(static_cast<size_t>(seq_len)), whole_targets(whole_tokens.size());
  for (size_t i = 0; i < places.size(); ++i) {
    source.read(places[i], whole_tokens, whole_targets);
    copy_tokens(whole_tokens, positions, tokens.subspan(i * row, row));
    copy_tokens(whole_targets, positions, targets.subspan(i * row, row));
    batch.sample_ids.push_back(places[i].index);
  }
  batch.num_targets = std::ranges::count_if(targets, [](int32_t id) { return id >= 0; });
  Tensor both = batch.on_host;
  if (device.kind != Device::Kind::cpu) {
    both = Tensor::empty(both.shape(), DType::i32, device);
    both.copy_from(batch.on_host, stream);
  }
  batch.tokens = both.slice(0, 0, 1).reshape({count, own_len});
  batch.targets = both.slice(0, 1, 2).reshape({count, own_len});
  return batch;
}

}  // namespace

Batch training_batch(const ExampleSource& source, const SampleOrder& order, const SampleRange& range,
                     int64_t seq_len, const SequenceSplit* split, Stream& stream) {
  std::vector<ExamplePlace> places;
  for (int64_t i = range.first; i < range.first + range.count; ++i)
    places.push_back({Split::train, order.sample(i), order.epoch(i)});
  return batch_of(source, places, seq_len, split, stream);
}

Batch validation_batch(const ExampleSource& source, std::span<const int64_t> examples, int64_t seq_len,
                       Stream& stream) {
  std::vector<ExamplePlace> places;
  for (const int64_t index : examples) places.push_back({Split::validation, index});
  return batch_of(source, places, seq_len, nullptr, stream);
}

}  // namespace headway
