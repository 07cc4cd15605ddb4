#include "trainers/evaluator.h"

#include <algorithm>
#include <array>
#include <numbers>
#include <span>

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

// Tokens of one forward pass, in whole examples and at least one. It must not follow train.micro_batch, since
// rounding depends on how many rows a product has.
constexpr int64_t kBatchTokens = 4096;

/// Of one forward pass, or of all.
enum Sum : size_t { nats, questions, right_answers, asked_examples, faultless_examples, num_sums };

/// Adds the losses [B,T] of one batch, and how many there are, to sums and counts of each position.
void add_positions(Model& model, Context& ctx, const Batch& batch, std::span<double> sums,
                   std::span<double> counts) {
  const std::vector<float> losses =
      model.token_losses(ctx, batch.tokens, batch.targets).to_vector<float>(ctx.stream);
  const std::vector<int32_t> targets = batch.targets.to_vector<int32_t>(ctx.stream);
  for (size_t i = 0; i < losses.size(); ++i) {
    sums[i % sums.size()] += static_cast<double>(losses[i]);
    counts[i % counts.size()] += targets[i] >= 0;
  }
}

}  // namespace

std::vector<int64_t> evaluated_examples(int64_t num_examples, const EvaluationConfig& config) {
  const int64_t wanted = (config.tokens + config.seq_len - 1) / config.seq_len;
  const int64_t count = config.tokens == 0 ? num_examples : std::min(num_examples, wanted);
  std::vector<int64_t> examples;
  for (int64_t i = 0; i < count; ++i) examples.push_back((2 * i + 1) * num_examples / (2 * count));
  return examples;
}

Evaluation evaluate(Model& model, const ExampleSource& examples, const EvaluationConfig& config,
                    Communicator& comm, Stream& stream) {
  const std::vector<int64_t> all = evaluated_examples(examples.num_examples(Split::validation), config);
  HEADWAY_CHECK(!all.empty(), DataError,
                "there is no validation text: raise data.val_fraction or give more than one document");

  Rng rng(0);  // nothing is drawn
  Context ctx{.stream = stream, .rng = rng};
  const auto batch_size = static_cast<size_t>(std::max<int64_t>(1, kBatchTokens / config.seq_len));
  const size_t num_batches = (all.size() + batch_size - 1) / batch_size;
  // Each rank fills the rows of its own batches, and leaves zeros, which change no sum, in the others.
  std::vector<double> rows(num_batches * Sum::num_sums);
  const auto length = static_cast<size_t>(config.by_position ? config.seq_len : 0);
  std::vector<double> positions(2 * length);  // sums of losses, then counts
  const auto measure_batch = [&](size_t i) {
    const size_t first = i * batch_size;
    const Batch batch =
        validation_batch(examples, std::span(all).subspan(first, std::min(batch_size, all.size() - first)),
                         config.seq_len, stream);
    const std::span<double> row(rows.data() + i * Sum::num_sums, Sum::num_sums);
    const Variable loss = model.loss(ctx, batch.tokens, batch.targets, 1, Recompute::off);
    row[Sum::nats] = static_cast<double>(loss.value().to_vector<float>(stream)[0]);
    row[Sum::questions] = static_cast<double>(batch.num_targets);
    if (config.by_position)
      add_positions(model, ctx, batch, std::span(positions).first(length), std::span(positions).last(length));
    if (examples.asks_questions())
      std::ranges::copy(score(model.predictions(ctx, batch.tokens).to_vector<int32_t>(stream),
                              batch.targets.to_vector<int32_t>(stream), config.seq_len),
                        row.begin() + Sum::right_answers);
  };
  agree(comm, [&] {
    for (auto i = static_cast<size_t>(comm.rank()); i < num_batches; i += static_cast<size_t>(comm.size()))
      measure_batch(i);
  });
  std::array<double, Sum::num_sums> sums{};
  const std::vector<double> of_all_ranks = all_reduce_values(comm, rows, Reduce::sum);
  for (size_t i = 0; i < of_all_ranks.size(); ++i) sums[i % Sum::num_sums] += of_all_ranks[i];

  Evaluation result{.loss = sums[Sum::nats] / sums[Sum::questions],
                    .num_tokens = static_cast<int64_t>(sums[Sum::questions])};
  if (examples.asks_questions()) {
    result.accuracy = sums[Sum::right_answers] / sums[Sum::questions];
    result.exact_match = sums[Sum::faultless_examples] / sums[Sum::asked_examples];
  }
  if (config.by_position) {
    positions = all_reduce_values(comm, positions, Reduce::sum);
    for (size_t i = 0; i < length; ++i) {
      const double count = positions[length + i];
      result.positions.push_back(
          {.loss = count > 0 ? positions[i] / count : 0, .num_tokens = static_cast<int64_t>(count)});
    }
  }
  if (examples.bytes_per_token() > 0)
    result.bits_per_byte = result.loss / std::numbers::ln2 / examples.bytes_per_token();
  return result;
}

}  // namespace headway
