#include "trainers/evaluator.h"

#include <algorithm>
#include <array>
#include <numbers>

#include "core/comm/agreement.h"
#include "core/error.h"

namespace headway {
namespace {

/// Right answers, examples with a question, and those of them without a mistake.
std::array<double, 3> score(const std::vector<int32_t>& predictions, const std::vector<int32_t>& targets,
                            int64_t seq_len) {
  std::array<double, 3> sums{};
  for (size_t begin = 0; begin < targets.size(); begin += static_cast<size_t>(seq_len)) {
    int64_t asked = 0, right = 0;
    for (size_t i = begin; i < begin + static_cast<size_t>(seq_len); ++i) {
      asked += targets[i] >= 0;
      right += targets[i] >= 0 && predictions[i] == targets[i];
    }
    sums[0] += static_cast<double>(right);
    sums[1] += asked > 0;
    sums[2] += asked > 0 && right == asked;
  }
  return sums;
}

}  // namespace

Evaluation evaluate(Model& model, const ExampleSource& examples, const EvaluationConfig& config,
                    Communicator& comm, Stream& stream) {
  const int64_t count = examples.num_examples(Split::validation);
  int64_t batches = (count + config.micro_batch - 1) / config.micro_batch;
  if (config.batches > 0) batches = std::min(batches, config.batches);
  HEADWAY_CHECK(batches > 0, DataError,
                "there is no validation text: raise data.val_fraction or give more than one document");

  Rng rng(0);  // nothing is drawn
  Context ctx{.stream = stream, .rng = rng};
  std::array<double, 5> sums{};  // nats, questions, right answers, examples, examples without a mistake
  for (int64_t i = comm.rank(); i < batches; i += comm.size()) {
    const Batch batch =
        validation_batch(examples, i * config.micro_batch, config.micro_batch, config.seq_len, stream);
    const Variable loss = model.loss(ctx, batch.tokens, batch.targets, 1, Recompute::off);
    sums[0] += static_cast<double>(loss.value().to_vector<float>(stream)[0]);
    sums[1] += static_cast<double>(batch.num_targets);
    if (examples.asks_questions()) {
      const std::array<double, 3> answers =
          score(model.predictions(ctx, batch.tokens).to_vector<int32_t>(stream),
                batch.targets.to_vector<int32_t>(stream), config.seq_len);
      for (size_t k = 0; k < 3; ++k) sums[2 + k] += answers[k];
    }
  }
  const std::vector<double> all = all_reduce_values(comm, sums, Reduce::sum);

  Evaluation result{.loss = all[0] / all[1], .num_tokens = static_cast<int64_t>(all[1])};
  if (examples.asks_questions()) result.accuracy = all[2] / all[1], result.exact_match = all[4] / all[3];
  if (examples.bytes_per_token() > 0)
    result.bits_per_byte = result.loss / std::numbers::ln2 / examples.bytes_per_token();
  return result;
}

}  // namespace headway
