#include "trainers/data/batch.h"

#include <algorithm>
#include <utility>

namespace headway {
namespace {

Batch batch_of(const ExampleSource& source, Split split, std::vector<int64_t> ids, int64_t seq_len,
               Stream& stream) {
  const auto count = static_cast<int64_t>(ids.size());
  const auto row = static_cast<size_t>(seq_len);
  const Device device = stream.device();
  Batch batch;
  batch.on_host = Tensor::empty_on_host({2, count, seq_len}, DType::i32, device);
  const std::span<int32_t> all(batch.on_host.data<int32_t>(), 2 * ids.size() * row);
  const std::span<int32_t> tokens = all.first(ids.size() * row), targets = all.last(ids.size() * row);
  for (size_t i = 0; i < ids.size(); ++i)
    source.read(split, ids[i], tokens.subspan(i * row, row), targets.subspan(i * row, row));
  batch.num_targets = std::ranges::count_if(targets, [](int32_t id) { return id >= 0; });
  Tensor both = batch.on_host;
  if (device.kind != Device::Kind::cpu) {
    both = Tensor::empty(both.shape(), DType::i32, device);
    both.copy_from(batch.on_host, stream);
  }
  batch.tokens = both.slice(0, 0, 1).reshape({count, seq_len});
  batch.targets = both.slice(0, 1, 2).reshape({count, seq_len});
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

Batch validation_batch(const ExampleSource& source, std::vector<int64_t> examples, int64_t seq_len,
                       Stream& stream) {
  return batch_of(source, Split::validation, std::move(examples), seq_len, stream);
}

}  // namespace headway
