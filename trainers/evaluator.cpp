#include "trainers/evaluator.h"

#include <algorithm>
#include <array>
#include <numbers>

#include "core/error.h"

namespace headway {

Evaluation evaluate(Model& model, const TokenCorpus& corpus, const EvaluationConfig& config,
                    Communicator& comm, Stream& stream) {
  const int64_t windows = num_validation_windows(corpus, config.seq_len);
  int64_t batches = (windows + config.micro_batch - 1) / config.micro_batch;
  if (config.batches > 0) batches = std::min(batches, config.batches);
  HEADWAY_CHECK(batches > 0, DataError,
                "there is no validation text: raise data.val_fraction or give more than one document");

  Rng rng(0);  // nothing is drawn
  Context ctx{.stream = stream, .rng = rng};
  std::array<double, 2> sums{};  // nats, tokens
  for (int64_t i = comm.rank(); i < batches; i += comm.size()) {
    const Batch batch =
        validation_batch(corpus, i * config.micro_batch, config.micro_batch, config.seq_len, stream);
    const Variable loss = model.loss(ctx, batch.tokens, batch.targets, 1, Recompute::off);
    sums[0] += static_cast<double>(loss.value().to_vector<float>(stream)[0]);
    sums[1] += static_cast<double>(batch.num_targets);
  }
  const Tensor total = Tensor::from<double>(sums, {2}, stream);
  comm.all_reduce(total, Reduce::sum, stream);
  const std::vector<double> all = total.to_vector<double>(stream);

  Evaluation result{.loss = all[0] / all[1], .num_tokens = static_cast<int64_t>(all[1])};
  if (corpus.bytes_per_token() > 0)
    result.bits_per_byte = result.loss / std::numbers::ln2 / corpus.bytes_per_token();
  return result;
}

}  // namespace headway
